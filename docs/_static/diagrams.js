/* Draws the mermaid blocks. Without the library, which `make docs` gets where npm is, the text stays. */
const dark = () => {
  const theme = document.body.dataset.theme;
  return theme === "dark" || (theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
};

const blocks = [...document.querySelectorAll(".highlight-mermaid")].map((block) => ({
  block,
  text: block.textContent,
}));

async function draw() {
  mermaid.initialize({ startOnLoad: false, theme: dark() ? "dark" : "neutral" });
  for (const [number, { block, text }] of blocks.entries())
    block.innerHTML = (await mermaid.render(`diagram-${number}`, text)).svg;
}

if (blocks.length) {
  const library = document.createElement("script"); // 3 MB: only for the pages that need it
  library.src = new URL("mermaid.min.js", document.currentScript.src);
  library.onload = () => {
    draw();
    new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-theme"] });
  };
  document.head.append(library);
}
