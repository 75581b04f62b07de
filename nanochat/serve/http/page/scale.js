// Where on the map a token is: the past gets less room the longer ago it was, so that both a thousand and a million tokens can be read.

const POWER = 1 / 3;

/** Maps tokens 0 … `tokens` to x 0 … `width` and back; the newest is on the right. */
export class Scale {
  constructor(tokens, width) {
    this.tokens = Math.max(1, tokens);
    this.width = width;
  }

  x(token) {
    return this.width * (1 - ((this.tokens - token) / this.tokens) ** POWER);
  }

  token(x) {
    const share = Math.min(1, Math.max(0, 1 - x / this.width));
    return Math.min(this.tokens - 1, Math.floor(this.tokens - this.tokens * share ** (1 / POWER)));
  }

  /** Round ages to mark, the oldest first, at least `apart` pixels from each other: [{age, x}]. */
  ticks(apart) {
    const marks = [];
    let last = this.width;
    for (let unit = 1; unit < this.tokens; unit *= 10) {
      for (const age of [unit, 2 * unit, 5 * unit]) {
        const x = this.x(this.tokens - age);
        if (age < this.tokens && last - x >= apart && x >= apart) {
          marks.unshift({ age, x });
          last = x;
        }
      }
    }
    return marks;
  }
}
