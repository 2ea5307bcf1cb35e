// Diagrams: drawn by the local Mermaid, only on pages that have one, and again when light and dark change places.
(() => {
  const start = () => {
    const blocks = [...document.querySelectorAll("div.mermaid")];
    if (!blocks.length) return;
    const sources = blocks.map((block) => block.textContent);
    const draw = async () => {
      const dark = document.documentElement.dataset.theme === "dark";
      mermaid.initialize({ startOnLoad: false, theme: dark ? "dark" : "neutral", themeVariables: { edgeLabelBackground: dark ? "#121212" : "#ffffff" }, fontFamily: getComputedStyle(document.body).fontFamily, flowchart: { useMaxWidth: true } });
      for (const [n, block] of blocks.entries()) {
        block.innerHTML = (await mermaid.render(`diagram-${n}`, sources[n])).svg;
        const drawing = block.querySelector("svg");
        const wide = parseFloat(drawing.style.maxWidth) || 0;
        drawing.style.minWidth = 0.6 * wide > block.clientWidth ? `${0.75 * wide}px` : ""; // shrunk as far as it can be read; a wider one is scrolled
        block.dataset.drawn = dark ? "dark" : "light";
      }
    };
    const script = document.createElement("script");
    script.src = `${document.documentElement.dataset.content_root || "./"}_static/mermaid/mermaid.min.js`;
    script.onload = () => {
      draw();
      new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    };
    document.head.append(script);
  };
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", start) : start();
})();

// Long lines of code go on below, further in than they began, as an editor shows them; a result of one line likewise.
(() => {
  const wrap = (pre) => {
    pre.innerHTML = pre.innerHTML.replace(/\n$/, "").split("\n").map((line) => { // Pygments closes its marks at the end of each line
      const depth = line.replace(/<[^>]*>/g, "").match(/^ */)[0].length;
      return `<span class="line" style="--in: ${depth}">${line || "\n"}</span>`;
    }).join("");
    pre.classList.add("wrapped");
  };
  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("div.highlight-ipython3 pre, div.highlight-python pre, div.highlight-bash pre, div.highlight-default pre").forEach(wrap);
    document.querySelectorAll("div.cell_output div.output.text_plain pre").forEach((pre) => pre.textContent.trim().includes("\n") || wrap(pre));
  });
})();

// A page in Chinese says so, for screen readers and the choice of a font.
document.addEventListener("DOMContentLoaded", () => { if (location.pathname.endsWith("_zh.html")) document.querySelector("article").lang = "zh-Hans"; });
