// Diagrams: drawn by the local Mermaid, only on pages that have one, and again when light and dark change places.
(() => {
  const start = () => {
    const blocks = [...document.querySelectorAll("div.mermaid")];
    if (!blocks.length) return;
    const sources = blocks.map((block) => block.textContent);
    const draw = async () => {
      const dark = document.documentElement.dataset.theme === "dark";
      mermaid.initialize({ startOnLoad: false, theme: dark ? "dark" : "neutral", fontFamily: getComputedStyle(document.body).fontFamily, flowchart: { useMaxWidth: true } });
      for (const [n, block] of blocks.entries()) {
        block.innerHTML = (await mermaid.render(`diagram-${n}`, sources[n])).svg;
        const drawing = block.querySelector("svg");
        drawing.style.minWidth = `${Math.min(parseFloat(drawing.style.maxWidth) || 0, 1150)}px`; // a wide one is scrolled, not shrunk until it cannot be read
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

// A page in Chinese says so, for screen readers and the choice of a font.
document.addEventListener("DOMContentLoaded", () => { if (location.pathname.endsWith("_zh.html")) document.querySelector("article").lang = "zh-Hans"; });
