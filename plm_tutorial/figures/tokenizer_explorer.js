// The tokenizer explorer. Python writes the figure as it stands at first; this script makes it respond.
// Needs bpe.js before it. Parts of the figure are found by their data-part, so that no id can occur twice in a page.
(() => {
  "use strict";
  const { Tokenizer, wellFormed, decode } = window.plmFigures;
  const LONGEST_WORD = 100; // bytes; shown step by step
  const MARKS = { " ": ["␣", "space"], "\n": ["↵", "newline"], "\t": ["→", "tab"] };

  const number = (value) => value.toLocaleString("en");
  const hex = (value, digits) => value.toString(16).toUpperCase().padStart(digits, "0");
  const hexBytes = (bytes) => bytes.map((byte) => hex(byte, 2)).join(" ");

  // Split a token into parts: { text to show, mark: does it stand for something unseen, spoken: how to say it }.
  function visible(bytes) {
    let text;
    try {
      text = decode(bytes).replace(/^\p{M}/u, "◌$&");
    } catch {
      const text = hexBytes(bytes); // only a part of a character
      return [{ text, mark: true, spoken: `bytes ${text}` }];
    }
    return text.match(/[\p{C}\p{Z}]|[^\p{C}\p{Z}]+/gu).map((part) => {
      if (/[^\p{C}\p{Z}]/u.test(part)) return { text: part, mark: false, spoken: part };
      const code = `U+${hex(part.codePointAt(0), 4)}`;
      const [text, spoken] = MARKS[part] ?? [code, code];
      return { text, mark: true, spoken };
    });
  }

  function element(name, className, ...children) {
    const node = document.createElement(name);
    if (className) node.className = className;
    node.append(...children);
    return node;
  }

  function chip(bytes, className = "plm-bpe-first plm-bpe-last") {
    const parts = visible(bytes).map(({ text, mark }) => (mark ? element("i", "", text) : text));
    return element("span", `plm-bpe-chip ${className}`, ...parts);
  }

  // The class of the chip at place i of a word's n: neighbours differ in colour, only the ends of the word are round.
  function placeClass(word, i, n) {
    return `plm-bpe-c${(3 * word + i) % 5}${i === 0 ? " plm-bpe-first" : ""}${i === n - 1 ? " plm-bpe-last" : ""}`;
  }

  // The slider's stops: every count of merges at first, then steps of about 4 %, since early merges change most.
  function stopsUpTo(all) {
    const stops = [0];
    for (let stop = 1; stop < all; stop = Math.max(stop + 1, Math.round(stop * 1.04))) stops.push(stop);
    if (all > 0) stops.push(all);
    return stops;
  }

  class Explorer {
    constructor(root) {
      this.config = JSON.parse(root.querySelector("script[type='application/json']").textContent);
      this.tokenizer = new Tokenizer(this.config);
      const parse = (markup) => document.createRange().createContextualFragment(markup);
      root.querySelector("style").after(parse(this.config.controls));
      root.querySelector("[data-part=static]").replaceWith(parse(this.config.explanation));
      const named = (key) => Array.from(root.querySelectorAll(`[data-${key}]`), (node) => [node.dataset[key], node]);
      this.parts = Object.fromEntries(named("part"));
      this.counts = Object.fromEntries(named("count"));
      this.stops = stopsUpTo(this.tokenizer.merges.length);
      this.parts.slider.max = this.stops.length - 1;
      this.parts.tokens.setAttribute("role", "listbox");
      this.parts.tokens.setAttribute("aria-label", "Tokens");
      this.parts.tokens.setAttribute("aria-orientation", "horizontal");
      this.listen();
      this.place = 0; // the token that holds this byte stays selected when the tokens change
      this.setLimit(this.tokenizer.merges.length);
      this.setText(this.config.text);
    }

    listen() {
      const { text, slider, merges, tokens, examples } = this.parts;
      text.addEventListener("input", () => this.draw());
      slider.addEventListener("input", () => this.setLimit(this.stops[slider.value]));
      merges.addEventListener("input", () => merges.value && this.setLimit(Number(merges.value)));
      merges.addEventListener("change", () => (merges.value = this.limit));
      examples.addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (button) this.setText(this.config.examples[button.textContent]);
      });
      const indexAt = (event) => this.options.indexOf(event.target.closest("[role=option]"));
      tokens.addEventListener("click", (event) => this.select(indexAt(event), true));
      tokens.addEventListener("pointerover", (event) => indexAt(event) >= 0 && this.describe(this.items[indexAt(event)]));
      tokens.addEventListener("pointerleave", () => this.describe(this.items[this.selected]));
      tokens.addEventListener("keydown", (event) => this.move(event));
    }

    setText(text) {
      this.parts.text.value = text;
      const pieces = this.tokenizer.pieces(wellFormed(text));
      const lengths = pieces.map((piece) => piece.length);
      const longest = lengths.indexOf(Math.max(...lengths));
      this.place = new TextEncoder().encode(pieces.slice(0, longest).join("")).length;
      this.draw();
    }

    setLimit(limit) {
      const all = this.tokenizer.merges.length;
      this.limit = Math.min(Math.max(Math.round(limit), 0), all);
      const { slider, merges } = this.parts;
      merges.value = this.limit;
      slider.value = this.stops.findLastIndex((stop) => stop <= this.limit);
      slider.setAttribute("aria-valuetext", `${number(this.limit)} of ${number(all)} merges`);
      this.draw();
    }

    draw() {
      const text = wellFormed(this.parts.text.value);
      const cuts = new Map(); // words repeat
      this.items = []; // one a token: { id, index, piece, word: number of the piece, byte: where it begins, look }
      let byte = 0;
      this.tokenizer.pieces(text).forEach((piece, word) => {
        if (!cuts.has(piece)) cuts.set(piece, this.tokenizer.cut(piece, this.limit));
        cuts.get(piece).forEach((id, i, { length }) => {
          this.items.push({ id, index: this.items.length, piece, word, byte, look: placeClass(word, i, length) });
          byte += this.tokenizer.tokens[id].length;
        });
      });
      this.count([...text].length, byte);
      this.drawTokens();
      this.select(this.items.findLastIndex((item) => item.byte <= this.place));
    }

    count(characters, bytes) {
      const tokens = this.items.length;
      this.counts["characters"].textContent = number(characters);
      this.counts["UTF-8 bytes"].textContent = number(bytes);
      this.counts["tokens"].textContent = number(tokens);
      this.counts["bytes per token"].textContent = tokens ? (bytes / tokens).toFixed(2) : "–";
      const news = `${number(tokens)} tokens for ${number(bytes)} bytes, with ${number(this.limit)} merges`;
      clearTimeout(this.timer); // read aloud once the reader pauses, not at each key
      this.timer = setTimeout(() => (this.parts.status.textContent = news), 700);
    }

    drawTokens() {
      const shown = this.items.slice(0, this.config.drawn);
      this.options = shown.map((item) => this.option(item));
      this.parts.tokens.replaceChildren(...this.options);
      const endsLine = ({ id }) => this.tokenizer.tokens[id].at(-1) === 10;
      this.options.forEach((node, i) => endsLine(shown[i]) && node.after(element("br", "")));
      const left = this.items.length - shown.length;
      this.parts.more.textContent = left ? `${number(left)} more tokens are counted but not drawn.` : "";
    }

    option({ id, look }) {
      const node = chip(this.tokenizer.tokens[id], look);
      const spoken = visible(this.tokenizer.tokens[id]).map((part) => part.spoken);
      node.setAttribute("role", "option");
      node.setAttribute("data-lm-suppress-shortcuts", "true"); // or JupyterLab takes the letter keys for itself
      node.setAttribute("aria-label", `${spoken.join(" ")}, id ${id}`);
      return node;
    }

    // Arrow keys move between tokens; Tab enters and leaves the whole row.
    move(event) {
      const last = this.options.length - 1;
      const [next, previous] = [Math.min(this.selected + 1, last), Math.max(this.selected - 1, 0)];
      const targets = { ArrowRight: next, ArrowDown: next, ArrowLeft: previous, ArrowUp: previous, Home: 0, End: last };
      if (!(event.key in targets) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation(); // pages may turn at arrow keys
      this.select(targets[event.key], true);
    }

    select(index, byReader = false) {
      if (byReader && index < 0) return; // a click between tokens
      this.selected = Math.min(index, this.options.length - 1);
      this.options.forEach((node, i) => {
        node.setAttribute("aria-selected", String(i === this.selected));
        node.tabIndex = i === this.selected ? 0 : -1;
      });
      const item = this.items[this.selected];
      if (byReader) {
        this.place = item.byte;
        this.options[this.selected].focus();
      }
      this.describe(item);
      this.story(item);
    }

    // One line about a token.
    describe(item) {
      if (!item) return this.parts.detail.replaceChildren("No tokens yet: the text is empty.");
      const { tokens, madeBy } = this.tokenizer;
      const rank = madeBy[item.id];
      const facts = [
        `token ${number(item.index + 1)} of ${number(this.items.length)}`,
        `${tokens[item.id].length > 1 ? "bytes" : "byte"} ${hexBytes(tokens[item.id])}`,
        rank === undefined ? "known from the start" : `made by merge ${number(rank + 1)}`,
      ];
      const id = element("b", "", `id ${item.id}`);
      this.parts.detail.replaceChildren(chip(tokens[item.id]), id, ...facts.map((fact) => element("span", "", fact)));
    }

    // How the selected token's word came about: its bytes, then one line a merge.
    story(item) {
      const { tokens } = this.tokenizer;
      const lines = [];
      const add = (label, word, made) => {
        const look = (id, i) => placeClass(item.word, i, word.length) + (id === made ? " plm-bpe-made" : "");
        const row = element("span", "plm-bpe-row", ...word.map((id, i) => chip(tokens[id], look(id, i))));
        lines.push(element("li", "", element("span", "plm-bpe-step", ...label), row));
      };
      const bytes = item ? this.tokenizer.cut(item.piece, 0) : [];
      if (bytes.length > LONGEST_WORD) lines.push(element("li", "", "This word is too long to show step by step."));
      else if (item) {
        add(["bytes"], bytes);
        this.tokenizer.cut(item.piece, this.limit, ({ left, right, id }, rank, word) =>
          add([`merge ${number(rank + 1)} `, chip(tokens[left]), " + ", chip(tokens[right])], word, id),
        );
      }
      this.parts.story.replaceChildren(...lines);
    }
  }

  // The figure this script stands in; if a notebook ran the script on its own, every figure not yet set up.
  const here = document.currentScript?.closest(".plm-bpe");
  const mounted = (window.plmFigures.mounted ??= new WeakSet());
  for (const root of here ? [here] : document.querySelectorAll(".plm-bpe")) {
    if (!mounted.has(root)) new Explorer(root);
    mounted.add(root);
  }
})();
