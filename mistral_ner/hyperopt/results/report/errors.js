"use strict";
// Shows the sentences that hold an error of the chosen kind, type, and number of the table.
(() => {
  const kind = document.getElementById("kind"), type = document.getElementById("type");
  if (kind === null) return;
  const chosen = document.getElementById("cell"), shown = document.getElementById("shown");
  const sentences = [...document.querySelectorAll("article")].map(node => ({
    node, errors: node.dataset.errors.split(" ").map(code => code.split(".")),
  }));
  let cell = null;
  const fits = ([kindOf, gold, found]) =>
    (kind.value === "" || kindOf === kind.value) &&
    (type.value === "" || gold === type.value || found === type.value) &&
    (cell === null || (gold === cell.dataset.gold && found === cell.dataset.found));
  const filter = () => {
    let count = 0;
    for (const { node, errors } of sentences) {
      node.hidden = !errors.some(fits);
      if (!node.hidden) count += 1;
    }
    chosen.hidden = cell === null;
    chosen.textContent = cell === null ? "" : cell.title + " ✕";
    shown.textContent = count + " shown";
  };
  kind.addEventListener("change", filter);
  type.addEventListener("change", filter);
  chosen.addEventListener("click", () => { cell = null; filter(); });
  for (const button of document.querySelectorAll("table.confusion button")) {
    button.addEventListener("click", () => {
      cell = button;
      kind.value = type.value = "";
      filter();
      document.getElementById("sentences").scrollIntoView();
    });
  }
  filter();  // a browser keeps what was chosen when a page is loaded again
})();
