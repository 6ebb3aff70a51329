/* Between a program and the C library: what writes to files is written down, or made to fail.

   A program loaded with this (LD_PRELOAD) does as without it until it calls shim_record or shim_fail. Only files whose
   path holds a given text count. Calls are numbered from 1 in the order they come. What is recorded is in the format of
   `Header` below, each call with its paths and data, as power.py reads it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum kind { OPEN = 1, WRITE, SYNC, RENAME, UNLINK, MAKE, TRUNCATE };

typedef struct {
    uint32_t kind, first, second; /* bytes of the two paths */
    uint32_t flags;               /* of an open */
    uint64_t inode, offset, size; /* size: of the data of a write, or what a file is cut to */
} Header;

static char within[4096];  /* a part of the paths that count; "": none do */
static int record = -1;    /* a descriptor to record to */
static int fail_kind, fail_at, fail_errno, fail_more, fail_done; /* fail_done: it happened, and says that it did not */
static int count, hits;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static ssize_t real_write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(fd, data, size);
}

void shim_record(const char *part, const char *path) {
    REAL(int, "open", const char *, int, ...);
    snprintf(within, sizeof within, "%s", part);
    record = real(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

/* Let call `at` of a kind (0: of any) fail with an error, and all after it as well if `more`; error 0 is a short write. */
void shim_fail(const char *part, int kind, int at, int error, int more, int done) {
    snprintf(within, sizeof within, "%s", part);
    fail_kind = kind, fail_at = at, fail_errno = error, fail_more = more, fail_done = done, count = hits = 0;
}

int shim_count(void) { return count; }
int shim_hits(void) { return hits; }

static int counts(const char *path) { return within[0] && path && strstr(path, within); }

static void absolute(const char *path, char *out) {
    char folder[4096];
    if (path[0] == '/' || !getcwd(folder, sizeof folder)) snprintf(out, 4096, "%s", path);
    else snprintf(out, 8192, "%s/%s", folder, path);
}

static int path_of(int fd, char *out) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(name, out, 4095);
    if (size < 0) return 0;
    out[size] = 0;
    char *gone = strstr(out, " (deleted)");
    if (gone) *gone = 0;
    return 1;
}

/* Whether a call that is about to happen must fail; 2 where it is to happen all the same. */
static int fails(int kind) {
    if (!fail_at || (fail_kind && fail_kind != kind)) return 0;
    pthread_mutex_lock(&lock);
    int now = ++count;
    int bad = fail_more ? now >= fail_at : now == fail_at;
    hits += bad;
    pthread_mutex_unlock(&lock);
    return !bad ? 0 : fail_done ? 2 : 1;
}

static void keep(int kind, const char *first, const char *second, uint64_t inode, uint32_t flags, uint64_t offset,
                 const void *data, uint64_t size) {
    if (record < 0) return;
    Header head = {kind, strlen(first), second ? strlen(second) : 0, flags, inode, offset, size};
    real_write(record, &head, sizeof head);
    real_write(record, first, head.first);
    if (second) real_write(record, second, head.second);
    if (data) real_write(record, data, size);
}

static uint64_t inode_of(int fd) {
    struct stat about;
    return fstat(fd, &about) ? 0 : about.st_ino;
}

static int opened(int (*real)(const char *, int, ...), const char *path, int flags, int mode) {
    char whole[8192];
    if (!within[0] || !(flags & O_CREAT)) return real(path, flags, mode);
    absolute(path, whole);
    if (!counts(whole)) return real(path, flags, mode);
    if (fails(OPEN) == 1) { errno = fail_errno; return -1; }
    pthread_mutex_lock(&lock);
    int there = access(whole, F_OK) == 0, fd = real(path, flags, mode), error = errno;
    if (fd >= 0 && (!there || flags & O_TRUNC)) keep(OPEN, whole, NULL, inode_of(fd), there, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define MODE int mode = 0; if (flags & O_CREAT) { va_list rest; va_start(rest, flags); mode = va_arg(rest, int); va_end(rest); }
int open(const char *path, int flags, ...) { MODE REAL(int, "open", const char *, int, ...); return opened(real, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE REAL(int, "open64", const char *, int, ...); return opened(real, path, flags, mode); }

static ssize_t written(int fd, const void *data, size_t size, off_t offset, int at, ssize_t (*go)(int, const void *, size_t, off_t)) {
    char whole[4096];
    if (!within[0] || fd == record || !path_of(fd, whole) || !counts(whole)) return go(fd, data, size, offset);
    int bad = fails(WRITE);
    if (bad && fail_errno) { errno = fail_errno; return -1; }
    if (bad && size > 1) size = (size + 1) / 2; /* a short write */
    pthread_mutex_lock(&lock);
    off_t place = at ? offset : (fcntl(fd, F_GETFL) & O_APPEND) ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    ssize_t done = go(fd, data, size, offset);
    int error = errno;
    if (done > 0) keep(WRITE, whole, NULL, inode_of(fd), 0, place, data, done);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

static ssize_t go_on(int fd, const void *data, size_t size, off_t offset) { (void)offset; return real_write(fd, data, size); }
static ssize_t go_to(int fd, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    return real(fd, data, size, offset);
}
ssize_t write(int fd, const void *data, size_t size) { return written(fd, data, size, 0, 0, go_on); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset, 1, go_to); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset, 1, go_to); }

static int synced(int fd, int (*real)(int)) {
    char whole[4096];
    if (!within[0] || !path_of(fd, whole) || !counts(whole)) return real(fd);
    if (fails(SYNC) == 1) { errno = fail_errno; return -1; }
    int done = real(fd), error = errno;
    pthread_mutex_lock(&lock);
    keep(SYNC, whole, NULL, inode_of(fd), 0, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int fsync(int fd) { REAL(int, "fsync", int); return synced(fd, real); }
int fdatasync(int fd) { REAL(int, "fdatasync", int); return synced(fd, real); }

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    char first[8192], second[8192];
    absolute(from, first), absolute(to, second);
    if (!counts(second)) return real(from, to);
    int bad = fails(RENAME);
    if (bad == 1) { errno = fail_errno; return -1; }
    pthread_mutex_lock(&lock);
    int done = real(from, to), error = errno;
    if (!done) keep(RENAME, first, second, 0, 0, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    if (bad == 2) { errno = fail_errno; return -1; }
    errno = error;
    return done;
}

static int named(int kind, const char *path, int (*go)(const char *)) {
    char whole[8192];
    absolute(path, whole);
    if (!counts(whole)) return go(path);
    int bad = fails(kind);
    if (bad == 1) { errno = fail_errno; return -1; }
    pthread_mutex_lock(&lock);
    int done = go(path), error = errno;
    if (!done) keep(kind, whole, NULL, 0, 0, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    if (bad == 2) { errno = fail_errno; return -1; }
    errno = error;
    return done;
}
int unlink(const char *path) { REAL(int, "unlink", const char *); return named(UNLINK, path, real); }
int rmdir(const char *path) { REAL(int, "rmdir", const char *); return named(UNLINK, path, real); }
static __thread mode_t made_with;
static int make(const char *path) { REAL(int, "mkdir", const char *, mode_t); return real(path, made_with); }
int mkdir(const char *path, mode_t mode) { made_with = mode; return named(MAKE, path, make); }

static int cut(int fd, off_t size, int (*real)(int, off_t)) {
    char whole[4096];
    if (!within[0] || !path_of(fd, whole) || !counts(whole)) return real(fd, size);
    if (fails(TRUNCATE) == 1) { errno = fail_errno; return -1; }
    pthread_mutex_lock(&lock);
    int done = real(fd, size), error = errno;
    if (!done) keep(TRUNCATE, whole, NULL, inode_of(fd), 0, 0, NULL, size);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int ftruncate(int fd, off_t size) { REAL(int, "ftruncate", int, off_t); return cut(fd, size, real); }
int ftruncate64(int fd, off_t size) { REAL(int, "ftruncate64", int, off_t); return cut(fd, size, real); }

static long turn_after, turn_by, asked;
void shim_turn_back(int calls, int seconds) { asked = 0, turn_after = calls, turn_by = seconds; }
int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int done = real(clock, now);
    if (!done && turn_by && clock == CLOCK_REALTIME && ++asked > turn_after) now->tv_sec -= turn_by;
    return done;
}
