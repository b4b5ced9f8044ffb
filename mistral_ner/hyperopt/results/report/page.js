"use strict";
// Draws every figure in the page's own colours, and again when those change: dark mode, print.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    return name => style.getPropertyValue("--" + name).trim();
  };
  // only under these keys: a text of the study may look like a colour's name
  const coloured = (value, colour, key) => {
    if (typeof value === "string") {
      return ["color", "colorscale"].includes(key) && value.startsWith("@") ? colour(value.slice(1)) : value;
    }
    if (Array.isArray(value)) return key === "colorscale" ? value.map(item => coloured(item, colour, key)) : value;
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, coloured(item, colour, name)]));
  };
  const axis = (given, colour) => ({
    gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), automargin: true, ...given,
  });
  const layout = (figure, colour) => {
    const { minwidth, ...given } = coloured(figure.layout, colour);
    const axes = Object.keys(given).filter(key => /^[xy]axis\d*$/.test(key));
    return {
      height: 380, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      font: { color: colour("ink"), family: "system-ui, DejaVu Sans, sans-serif", size: 12 },
      margin: { t: 30, r: 12, b: 50, l: 50 }, legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0 },
      ...given, ...Object.fromEntries(axes.map(key => [key, axis(given[key], colour)])),
    };
  };
  // axes that a narrow screen has no room for stand closer, with names that are turned
  const closer = trace => trace.type !== "parcoords" ? trace :
    { ...trace, labelangle: -30, labelfont: { size: 10 }, tickfont: { size: 9 } };
  const draw = () => {
    const colour = colours();
    for (const figure of figures) {
      const place = document.getElementById("figure-" + figure.name);
      const wanted = figure.layout.minwidth || 0, narrow = wanted > place.parentNode.clientWidth;
      place.style.minWidth = (narrow ? 0.55 * wanted : wanted) + "px";
      const config = { responsive: true, displaylogo: false, displayModeBar: false };
      const laid = layout(figure, colour);
      place.style.height = laid.height + "px";  // Plotly takes the place's own height when the window changes
      if (narrow) laid.margin = { ...laid.margin, t: 110 };
      Plotly.react(place, figure.data.map(trace => coloured(narrow ? closer(trace) : trace, colour)),
        laid, config).then(() => { place.dataset.drawn = "true"; });
    }
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  matchMedia("(max-width: 720px)").addEventListener("change", draw);
  matchMedia("print").addEventListener("change", draw);
})();
