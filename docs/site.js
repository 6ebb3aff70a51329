// What the theme leaves out for keyboards and screen readers: names of landmarks, and focus for what scrolls.
window.addEventListener("load", () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  const scrolls = ".md-typeset__scrollwrap, .md-typeset pre > code, .md-typeset p:has(> img)";
  for (const box of document.querySelectorAll(scrolls)) box.tabIndex = 0;
  document.querySelectorAll(".md-code__nav").forEach((box, i) => box.setAttribute("aria-label", `Code ${i + 1}`));
});
