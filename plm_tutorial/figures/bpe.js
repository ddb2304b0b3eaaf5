// Byte-level BPE in the page: the same as plm_tutorial.tokenizers.BPETokenizer, and a test compares their ids.
// Defines plmFigures.Tokenizer and plmFigures.wellFormed; plmFigures is the only global name of the book's figures.
(() => {
  "use strict";
  const shared = (window.plmFigures ??= {});

  const utf8 = (text) => new TextEncoder().encode(text); // half a surrogate pair becomes U+FFFD
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }); // ignoreBOM: keep a leading U+FEFF

  shared.decode = (bytes) => decoder.decode(Uint8Array.from(bytes)); // throws on bytes that are no UTF-8
  shared.wellFormed = (text) => decoder.decode(utf8(text));

  shared.Tokenizer = class {
    // pattern: source of the pre-tokenisation; special: how many ids come before the bytes; bytes: the 256 bytes in the
    // order of their ids; merges: pairs of ids, flat, in the order in which they were learned.
    constructor({ pattern, special, bytes, merges }) {
      this.pattern = new RegExp(pattern, "gu");
      this.tokens = []; // id -> its bytes
      this.madeBy = []; // id -> number of the merge that makes it, from 0; undefined for a byte
      this.merges = []; // { left, right, id }
      this.size = special + 256 + merges.length / 2; // no id is larger
      this.ranks = new Map(); // pair -> number of its merge
      this.idOfByte = [];
      this.idOf = new Map(); // bytes, as text -> id
      bytes.forEach((byte, i) => (this.idOfByte[byte] = this.define([byte], special + i)));
      for (let i = 0; i < merges.length; i += 2) this.learn(merges[i], merges[i + 1]);
    }

    define(token, id) {
      this.tokens[id] = token;
      this.idOf.set(String(token), id);
      return id;
    }

    learn(left, right) {
      const token = this.tokens[left].concat(this.tokens[right]);
      // Two pairs may spell the same token (a + bc, ab + c): it keeps its first id.
      const id = this.idOf.get(String(token)) ?? this.define(token, this.tokens.length);
      this.madeBy[id] ??= this.merges.length;
      this.ranks.set(left * this.size + right, this.merges.length);
      this.merges.push({ left, right, id });
    }

    // When the pair was learned, counted from 0; Infinity if never.
    rank(left, right) {
      return this.ranks.get(left * this.size + right) ?? Infinity;
    }

    // The pieces that merges never cross; `text` must be well formed.
    pieces(text) {
      return text.match(this.pattern) ?? [];
    }

    // Cut a piece with the first `limit` merges: of the pairs present, join the one learned first, until none is left.
    cut(piece, limit, onStep = () => {}) {
      const word = Array.from(utf8(piece), (byte) => this.idOfByte[byte]);
      const ranks = word.map((id, i) => this.rank(id, word[i + 1])); // of each token and the one after it
      for (;;) {
        let first = limit;
        for (const rank of ranks) if (rank < first) first = rank;
        if (first === limit) return word;
        this.join(word, ranks, first);
        onStep(this.merges[first], first, word);
      }
    }

    // Join a pair wherever it stands, in place; only the ranks beside a new token are looked up anew.
    join(word, ranks, rank) {
      const { id } = this.merges[rank];
      let n = 0; // tokens written; never ahead of those read
      for (let i = 0; i < word.length; i++, n++) {
        const found = ranks[i] === rank;
        word[n] = found ? id : word[i];
        if (found) i++;
        ranks[n] = ranks[i];
        if (n > 0 && (word[n] === id || word[n - 1] === id)) ranks[n - 1] = this.rank(word[n - 1], word[n]);
      }
      word.length = ranks.length = n;
    }

    encode(text, limit = this.merges.length) {
      return this.pieces(shared.wellFormed(text)).flatMap((piece) => this.cut(piece, limit));
    }
  };
})();
