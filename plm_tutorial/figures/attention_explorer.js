// The attention explorer. Python writes the heat map as it stands at first; this script makes it respond.
// Parts of the figure are found by their data-part, so that no id can occur twice in a page.
(() => {
  "use strict";
  const DEEP = 0.7; // opacity from which text on the shade changes colour to stay readable
  const NAMED = 0.05 * 255; // the least weight that is written out, unless all are smaller
  const SHADES = 16; // of a thumbnail

  // Numbers and markup of this script only; tokens come in as text.
  const parse = (markup) => document.createRange().createContextualFragment(markup);
  const fill = (words, values) => words.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const shade = (level) => Math.sqrt(level / 255).toFixed(2);
  const weight = (level) => (level / 255).toFixed(2);

  function element(name, className, ...children) {
    const node = document.createElement(name);
    if (className) node.className = className;
    node.append(...children);
    return node;
  }

  // A map as a small picture: for each shade one path over all cells that have it. The colour comes from the style.
  function thumbnail(map, rows, columns) {
    const paths = Array.from({ length: SHADES + 1 }, () => "");
    map.forEach((level, i) => {
      const step = Math.round(SHADES * Math.sqrt(level / 255));
      if (step) paths[step] += `M${i % columns} ${Math.floor(i / columns)}h1v1h-1z`;
    });
    const drawn = paths.map((d, step) => d && `<path d="${d}" fill-opacity="${step / SHADES}"/>`).join("");
    return parse(`<svg viewBox="0 0 ${columns} ${rows}" preserveAspectRatio="none" aria-hidden="true">${drawn}</svg>`);
  }

  // Options of which one is chosen, by click or arrow keys; Tab enters and leaves the whole group.
  class Choice {
    constructor(host, options, state, choose) {
      Object.assign(this, { options, state, choose });
      host.replaceChildren(...options);
      options.forEach((node) => node.setAttribute("data-lm-suppress-shortcuts", "true")); // JupyterLab takes keys
      host.addEventListener("click", (event) => this.pick(this.indexAt(event)));
      host.addEventListener("keydown", (event) => this.move(event));
    }

    indexAt(event) {
      return this.options.findIndex((node) => node.contains(event.target));
    }

    pick(index) {
      if (index < 0) return; // between the options
      this.options[index].focus();
      this.choose(index);
    }

    move(event) {
      const [at, last] = [this.options.indexOf(event.target), this.options.length - 1];
      const [next, previous] = [Math.min(at + 1, last), Math.max(at - 1, 0)];
      const targets = { ArrowRight: next, ArrowDown: next, ArrowLeft: previous, ArrowUp: previous, Home: 0, End: last };
      if (!(event.key in targets) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation(); // pages may turn at arrow keys
      this.pick(targets[event.key]);
    }

    show(index) {
      this.options.forEach((node, i) => {
        node.setAttribute(this.state, String(i === index));
        node.tabIndex = i === index ? 0 : -1;
      });
    }
  }

  const CONTROLS = `<div class="plm-att-controls">
    <div class="plm-att-layer" data-part="layerRow"><b aria-hidden="true" data-part="layerName"></b>
    <i aria-hidden="true">0</i><input data-part="layer" type="range" min="0" step="1"><i aria-hidden="true"></i></div>
    <div class="plm-att-heads" data-part="heads" role="radiogroup"></div></div>`;
  const LINES = `<div class="plm-att-lines">
    <p data-part="queryName"></p><p></p><p data-part="keyName"></p>
    <div class="plm-att-queries" data-part="queries" role="listbox" aria-orientation="vertical"></div>
    <div class="plm-att-curves" data-part="curves"></div>
    <ul class="plm-att-keys" data-part="keys"></ul></div>`;

  class Explorer {
    constructor(root) {
      this.config = JSON.parse(root.querySelector("script[type='application/json']").textContent);
      const { levels, layer, head, queries, keys, words } = this.config;
      this.levels = Uint8Array.from(atob(levels), (character) => character.charCodeAt(0));
      this.size = queries.length * keys.length;
      root.querySelector("style").after(parse(CONTROLS));
      root.querySelector("[data-part=views]").prepend(parse(LINES));
      this.parts = Object.fromEntries(Array.from(root.querySelectorAll("[data-part]"), (n) => [n.dataset.part, n]));
      root.dataset.live = "";
      this.parts.static.remove();
      this.layerControl(words);
      this.headControl(words);
      this.tokens(words);
      this.cells = Array.from(this.parts.cells.rows, (row) => Array.from(row.querySelectorAll("td")));
      this.query = Math.floor(queries.length / 2);
      this.head = head;
      this.setLayer(layer);
    }

    layerControl(words) {
      const { layer, layerRow } = this.parts;
      layer.max = this.config.layers - 1;
      layer.setAttribute("aria-label", words.layers);
      layerRow.hidden = this.config.layers === 1;
      layerRow.lastElementChild.textContent = layer.max;
      layer.addEventListener("input", () => this.setLayer(Number(layer.value)));
    }

    headControl(words) {
      const { heads } = this.parts;
      const many = this.config.heads > 1;
      heads.hidden = !many;
      heads.setAttribute("aria-label", words.heads);
      this.mean = many ? this.config.heads : -1; // the place of the mean, after the heads
      const options = Array.from({ length: this.config.heads + many }, (_, i) => {
        const node = element("div", "plm-att-head", element("span", "", i === this.mean ? words.mean : String(i)));
        node.setAttribute("role", "radio");
        node.setAttribute("aria-label", i === this.mean ? words.mean_of : fill(words.head, { head: i }));
        return node;
      });
      this.headChoice = new Choice(heads, options, "aria-checked", (i) => this.setHead(i));
    }

    tokens(words) {
      const { queries, keys, queryName, keyName, cells } = this.parts;
      queryName.append(element("b", "", words.query), ` ${words.query_hint}`);
      keyName.append(element("b", "", words.key), ` ${words.key_hint}`);
      queries.setAttribute("aria-label", queryName.textContent);
      keys.setAttribute("aria-label", keyName.textContent);
      const options = this.config.queries.map((token) => {
        const node = element("div", "plm-att-row", element("span", "plm-att-token", token));
        node.setAttribute("role", "option");
        node.title = token;
        return node;
      });
      this.queryChoice = new Choice(queries, options, "aria-selected", (i) => this.setQuery(i));
      const row = (token) => element("li", "plm-att-row", element("span", "plm-att-token", token), element("b", ""));
      keys.replaceChildren(...this.config.keys.map(row));
      // Pointing is a look ahead, in the list and in the heat map; a click in a row of the heat map chooses its query.
      const place = ({ target }) => {
        const cell = target.closest("td, th");
        return cell ? [cell.parentNode.sectionRowIndex, cell.cellIndex - 1] : [-1, -1];
      };
      const ahead = (query, key) => query >= 0 && this.show(query, key);
      queries.addEventListener("pointerover", (event) => ahead(this.queryChoice.indexAt(event)));
      cells.addEventListener("pointerover", (event) => ahead(...place(event)));
      for (const host of [queries, cells]) host.addEventListener("pointerleave", () => this.show(this.query));
      cells.addEventListener("click", (event) => place(event)[0] >= 0 && this.setQuery(...place(event)));
    }

    // The weights of a head, or of the mean, row by row, in 255ths.
    map(head) {
      const { heads } = this.config;
      const place = (h) => (this.layer * heads + h) * this.size;
      if (head !== this.mean) return Array.from(this.levels.subarray(place(head), place(head + 1)));
      const sum = (i) => Array.from({ length: heads }, (_, h) => this.levels[place(h) + i]).reduce((a, b) => a + b);
      return Array.from({ length: this.size }, (_, i) => sum(i) / heads);
    }

    setLayer(layer) {
      const { queries, keys, words } = this.config;
      this.layer = layer;
      this.parts.layer.value = layer;
      const name = fill(words.layer, { layer });
      this.parts.layerName.textContent = name;
      this.parts.layer.setAttribute("aria-valuetext", name);
      this.headChoice.options.forEach((node, i) => {
        node.querySelector("svg")?.remove();
        node.prepend(thumbnail(this.map(i), queries.length, keys.length));
      });
      this.setHead(this.head);
    }

    setHead(head) {
      const { words, heads, keys } = this.config;
      this.head = head;
      this.headChoice.show(head);
      const title = head === this.mean ? words.title_mean : words.title;
      this.parts.title.textContent = fill(title, { layer: this.layer, head, heads });
      const map = this.map(head);
      this.rows = this.cells.map((_, i) => map.slice(i * keys.length, (i + 1) * keys.length));
      this.cells.forEach((cells, i) =>
        cells.forEach((cell, j) => {
          cell.style.setProperty("--w", shade(this.rows[i][j]));
          cell.textContent = weight(this.rows[i][j]);
        }),
      );
      this.setQuery(this.query);
    }

    setQuery(query, key) {
      this.query = query;
      this.queryChoice.show(query);
      this.show(query, key);
    }

    // Where a query looks; the weight of a key that the reader points at is written out in any case.
    show(query, key) {
      const row = this.rows[query];
      const least = Math.min(NAMED, Math.max(...row));
      for (const nodes of [this.queryChoice.options, Array.from(this.parts.cells.rows)]) {
        nodes.forEach((node, i) => node.classList.toggle("plm-att-chosen", i === query));
      }
      Array.from(this.parts.keys.children).forEach((node, j) => {
        node.style.setProperty("--w", shade(row[j]));
        node.classList.toggle("plm-att-deep", shade(row[j]) > DEEP);
        node.classList.toggle("plm-att-weak", row[j] < least && j !== key);
        node.classList.toggle("plm-att-pointed", j === key);
        node.lastElementChild.textContent = weight(row[j]);
      });
      this.drawCurves(query);
      this.parts.summary.textContent = this.summary(query, row, least);
    }

    summary(query, row, least) {
      const { keys, queries, words } = this.config;
      const strongest = [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, 3);
      const named = strongest.filter((j) => row[j] >= least);
      const list = named.map((j) => fill(words.weighted, { token: keys[j], weight: weight(row[j]) }));
      return fill(words.summary, { query: fill(words.token, { token: queries[query] }), keys: list.join(", ") });
    }

    // Curves from each query to its keys, those of the chosen one in front.
    drawCurves(query) {
      const curve = (i, level, j) => {
        if (level < 0.02 * 255) return ""; // too thin to matter
        const path = `M0 ${i + 0.5}C50 ${i + 0.5} 50 ${j + 0.5} 100 ${j + 0.5}`;
        return `<path d="${path}" stroke-width="${1 + level / 51}" stroke-opacity="${shade(level)}"/>`;
      };
      const curves = (i) => `<g>${this.rows[i].map((level, j) => curve(i, level, j)).join("")}</g>`;
      const others = this.rows.map((_, i) => (i === query ? "" : curves(i)));
      const length = Math.max(this.config.queries.length, this.config.keys.length);
      const svg = `<svg viewBox="0 0 100 ${length}" preserveAspectRatio="none" aria-hidden="true">
        <g class="plm-att-others">${others.join("")}</g>${curves(query)}</svg>`;
      this.parts.curves.style.setProperty("--rows", length);
      this.parts.curves.replaceChildren(parse(svg));
    }
  }

  // The figure this script stands in; if a notebook ran the script on its own, every figure not yet set up.
  const here = document.currentScript?.closest(".plm-att");
  const mounted = ((window.plmFigures ??= {}).mounted ??= new WeakSet());
  for (const root of here ? [here] : document.querySelectorAll(".plm-att")) {
    if (!mounted.has(root)) new Explorer(root);
    mounted.add(root);
  }
})();
