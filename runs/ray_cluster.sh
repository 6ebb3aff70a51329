#!/usr/bin/env bash
# A run over machines that one can log in to by ssh: runs/ray_cluster.sh "host1 host2" CONFIG OUT [--set ...]
# This machine is the cluster's head. Each host has the same environment (NEUROEVO_PYTHON, by default this one's python)
# and needs no data: features go to it once. Whatever the run comes to, `ray stop` ends all of Ray that is yours there.
set -euo pipefail
hosts=$1 config=$2 out=$3
shift 3
python=${NEUROEVO_PYTHON:-$(command -v python)}
ray=$(dirname "$python")/ray
port=6379
here=$(hostname -I | cut -d' ' -f1)
end() {
  for host in $hosts; do ssh "$host" "$ray stop" >/dev/null 2>&1 || true; done
  "$ray" stop >/dev/null 2>&1 || true
}
trap end EXIT
"$ray" start --head --node-ip-address="$here" --port=$port --num-cpus=0 --include-dashboard=false
for host in $hosts; do ssh "$host" "$ray start --address=$here:$port"; done
"$python" -m neuroevo run "$config" --out "$out" --set remote.workers=auto --set remote.address="$here:$port" "$@"
