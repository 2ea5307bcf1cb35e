// Arrow keys, space, Home and End turn the slides; n shows what to say. The place is kept in the address.
(() => {
  const slides = [...document.querySelectorAll("section")];
  const fit = (slide) => { // as large as fits: what is too tall is made smaller, a few words are made larger; what room is left goes above and below
    const inner = slide.querySelector(".inner"), look = getComputedStyle(slide);
    inner.style.marginTop = "";
    let share = slide.querySelector("pre.code") ? 1 : slide.matches(".beside") ? 1.25 : 1.5;
    const height = () => {
      inner.style.width = `${100 / share}%`;
      inner.style.transform = `scale(${share})`;
      return inner.getBoundingClientRect().height;
    };
    const room = slide.getBoundingClientRect().bottom - parseFloat(look.paddingBottom) - inner.getBoundingClientRect().top;
    while (height() > room + 1 && share > 0.4) share -= 0.02;
    inner.style.marginTop = `${Math.max(0, room - height()) * 0.35}px`;
  };
  const here = () => Math.max(0, slides.findIndex((slide) => `#${slide.id}` === location.hash));
  const show = () => {
    const n = here();
    slides.forEach((slide, i) => { slide.classList.toggle("now", i === n); slide.setAttribute("aria-hidden", i !== n); });
    document.getElementById("count").textContent = `${n + 1} / ${slides.length}`;
    fit(slides[n]);
  };
  const go = (n) => { location.hash = slides[Math.min(slides.length - 1, Math.max(0, n))].id; };
  const turns = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in turns && event.target.tagName !== "BUTTON") { event.preventDefault(); go(here() + turns[event.key]); }
    if (event.key === "ArrowRight" && event.target.tagName === "BUTTON") go(here() + 1);
    if (event.key === "ArrowLeft" && event.target.tagName === "BUTTON") go(here() - 1);
    if (event.key === "Home") go(0);
    if (event.key === "End") go(slides.length - 1);
    if (event.key === "n") document.querySelectorAll("aside.notes").forEach((note) => { note.hidden = !note.hidden; });
  });
  addEventListener("hashchange", show);
  addEventListener("resize", show);
  document.getElementById("back").onclick = () => go(here() - 1);
  document.getElementById("on").onclick = () => go(here() + 1);
  const draw = async () => {
    if (window.mermaid) {
      mermaid.initialize({ startOnLoad: false, theme: "neutral", themeVariables: { fontSize: "20px", edgeLabelBackground: "#ffffff" }, flowchart: { useMaxWidth: true, rankSpacing: 24, nodeSpacing: 24, padding: 8, diagramPadding: 0 } });
      for (const [n, block] of [...document.querySelectorAll("div.mermaid")].entries()) block.innerHTML = (await mermaid.render(`diagram-${n}`, block.textContent)).svg;
    }
    await MathJax.startup.promise;
    await MathJax.typesetPromise();
    document.body.dataset.ready = "yes";
    show();
  };
  show();
  draw();
})();
