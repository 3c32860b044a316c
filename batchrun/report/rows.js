// The table of rows: pages, filters, search and order over the data that is embedded in the page.
(() => {
  const body = document.getElementById("rows");
  if (!body) return;
  const at = (id) => document.getElementById(id);
  const blocks = document.getElementsByClassName("block");
  const MOST_BLOCKS = 400, MOST_STEPS = 400_000, MOST_RATIO = 4;
  const search = at("search"), order = at("order"), scorer = at("scorer"), outcome = at("outcome");
  const marking = at("marking");
  const choices = [...document.querySelectorAll(".choices button")];
  const slices = [...document.querySelectorAll("select[data-slice]")];
  let index, matching = [], place = 0, latest = 0;
  let kind = choices.find((one) => one.ariaPressed === "true")?.dataset.kind ?? "all";

  const unpacked = async (element) => {
    const bytes = Uint8Array.from(atob(element.textContent), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };
  const decoded = new Map();
  const block = async (number) => {
    if (!decoded.has(number)) decoded.set(number, await unpacked(blocks[number]));
    if (decoded.size > MOST_BLOCKS) decoded.delete(decoded.keys().next().value);
    return decoded.get(number) ?? unpacked(blocks[number]);
  };
  const rowAt = async (n) => (await block(Math.floor(n / index.size)))[n % index.size];

  // Filters that need the index alone.
  const chosen = () => {
    const bit = index.kinds.indexOf(kind);
    const wanted = slices.filter((one) => one.value !== "").map((one) => [index.slices[one.dataset.slice].places, Number(one.value)]);
    const name = scorer?.value ?? "", state = outcome?.value ?? "any";
    const judged = name in index.passAt ? [name] : Object.keys(index.passAt);
    const fits = (n) => judged.some((each) => {
      const score = index.numbers[each][n];
      return state === "unscored" ? score === null : score !== null && (score >= index.passAt[each]) === (state === "passed");
    });
    const found = [];
    for (let n = 0; n < index.count; n++) {
      if (kind !== "all" && !(index.kindsOf[n] >> bit & 1)) continue;
      if (!wanted.every(([places, value]) => places[n] === value)) continue;
      if (state === "any" || fits(n)) found.push(n);
    }
    return found;
  };
  const sorted = (rows) => {
    const [name, direction] = order.value.split("|");
    const sign = direction === "down" ? -1 : 1;
    const numbers = index.numbers[name];
    if (!numbers) return sign < 0 ? rows.reverse() : rows;
    return rows.sort((a, b) => {
      if (numbers[a] === null || numbers[b] === null) return (numbers[a] === null) - (numbers[b] === null) || a - b;
      return sign * (numbers[a] - numbers[b]) || a - b;
    });
  };
  const textOf = ([id, prompt, expected, answers]) =>
    [id, prompt, expected, ...answers.flatMap((each) => each ? [each.status, each.ending, each.text, each.error, ...each.scores?.flat() ?? []] : [])]
      .filter((part) => typeof part === "string").join("\n").toLowerCase();
  const say = (text) => { at("found").textContent = text; };

  // A later call of it makes an earlier one stop.
  const apply = async () => {
    const call = ++latest;
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = chosen();
    if (words.length) {
      const hits = [];
      for (const [done, n] of found.entries()) {
        const text = textOf(await rowAt(n));
        if (call !== latest) return;
        if (words.every((word) => text.includes(word))) hits.push(n);
        if (done % 2_000 === 1_999) say(`searched ${Math.round(100 * done / found.length)} %, found ${hits.length.toLocaleString("en")}`);
      }
      found = hits;
    }
    matching = sorted(found);
    place = 0;
    await show(call);
  };
  const show = async (call) => {
    const numbers = matching.slice(place, place + index.size);
    const rows = await Promise.all(numbers.map(rowAt));
    if (call !== latest) return;
    body.replaceChildren(...rows.map(drawn));
    const count = matching.length.toLocaleString("en"), all = index.count.toLocaleString("en");
    say(matching.length === index.count ? "" : `${count} of ${all}`);
    at("pager").hidden = matching.length <= index.size;
    at("place").textContent = `${(place + 1).toLocaleString("en")} to ${(place + numbers.length).toLocaleString("en")} of ${count}`;
    at("previous").disabled = place === 0;
    at("next").disabled = place + index.size >= matching.length;
    for (const head of document.querySelectorAll("th [data-sort]")) {
      const [name, direction] = order.value.split("|");
      const sort = name === head.dataset.sort ? (direction === "down" ? "descending" : "ascending") : "none";
      head.parentElement.ariaSort = sort;
    }
    body.dataset.ready = "true";
  };

  const element = (tag, kinds, ...content) => {
    const made = document.createElement(tag);
    if (kinds) made.className = kinds;
    made.append(...content);
    return made;
  };
  const cell = (label, kinds, ...content) => {
    const made = element("td", kinds, ...content);
    made.dataset.label = label;
    return made;
  };
  const isComparison = () => index.names.length > 1;
  const drawn = ([id, prompt, expected, answers]) => {
    const button = element("button", "", id);
    button.type = "button";
    button.ariaExpanded = "false";
    const [first] = answers;
    const cells = [cell("Row", "id", button)];
    if (!isComparison()) cells.push(cell("Status", "state", dot(first?.status ?? "pending")));
    cells.push(cell("Input", "", text(prompt)));
    const wrong = !isComparison() && first?.scores?.some(([, , passed]) => passed === false);
    const [missing, added] = wrong ? difference(expected, first?.text) : [];
    if (index.hasExpected) cells.push(cell("Expected", "", text(missing ?? expected)));
    if (isComparison()) {
      for (const [n, answer] of answers.entries()) cells.push(side(index.names[n], answer, n ? first : null, expected));
    } else {
      cells.push(cell("Answer", "", ...said(first, added)));
      const reasons = first?.scores?.filter(([, , , , , reason]) => reason) ?? [];
      if (index.hasReasons) cells.push(cell("Judge's reason", "", ...reasons.map(([name, , , , , reason]) => named(name, reason, reasons.length > 1))));
      if (Object.keys(index.passAt).length) cells.push(cell("Score", "small", ...scores(first, expected)));
      cells.push(cell("Details", "small quiet", ...details(first)));
    }
    return element("tr", "", ...cells);
  };
  const dot = (status) => {
    const made = element("span", `dot ${{ errored: "bad", pending: "warn" }[status] ?? "good"}`, element("span", "unseen", status));
    made.title = status;
    return made;
  };
  const text = (content, kinds = "") => {
    const parts = Array.isArray(content) ? content : [content ?? ""];
    return element("div", `text ${kinds}`.trim(), ...parts);
  };
  const named = (name, content, isNamed) => text(isNamed && name ? [element("b", "", name), " ", content] : content);
  const said = (answer, marked) => {
    if (!answer) return ["–"];
    const found = [];
    if (answer.error) found.push(text(answer.error, answer.status === "errored" ? "bad-text" : "quiet"));
    if (answer.text) found.push(text(marked ?? answer.text));
    return found;
  };
  const side = (name, answer, first, expected) => {
    const reference = first ? first.text : answer?.scores?.some(([, , passed]) => passed === false) ? expected : null;
    const [, added] = difference(reference, answer?.text);
    const parts = answer ? [element("div", "small", ...scores(answer, expected))] : [];
    parts.push(...said(answer, added));
    for (const [scorer, , , , , reason] of answer?.scores ?? []) {
      if (reason) parts.push(named(scorer, reason, true)), parts.at(-1).classList.add("quiet", "reason");
    }
    const made = cell(name, "text-cell", ...parts);
    made.dataset.run = name;
    return made;
  };
  const scores = (answer, expected) => (answer?.scores ?? []).map(([name, score, passed, predicted, wanted, , problem]) => {
    const line = element("div", "");
    if (name) line.append(element("span", "quiet", `${name} `));
    line.append(element("span", passed === null ? "quiet" : passed ? "good-text" : "bad-text", score ?? "–"));
    if (predicted && predicted !== answer.text?.trim()) {
      const [, marked] = passed === false ? difference(wanted ?? expected, predicted) : [];
      line.append(" ", ...(marked ?? [predicted]));
    }
    if (score === null && problem) line.append(element("div", "quiet", problem.slice(0, 200)));
    return line;
  });
  const details = (answer) => {
    if (!answer) return [];
    const lines = (answer.details ?? []).map((line) => element("div", "", line));
    const isUsual = ["stop", "tool_calls"].includes(answer.ending);
    return isUsual || !answer.ending ? lines : [element("div", "warn-text", answer.ending), ...lines];
  };

  // Words that one of two texts has and the other has not, by a longest common subsequence.
  const difference = (one, other) => {
    if (!marking?.checked || !one || !other || one === other) return [];
    const [a, b] = [one, other].map((each) => each.match(/\s+|[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? []);
    if (a.length * b.length > MOST_STEPS || Math.max(a.length, b.length) > MOST_RATIO * Math.min(a.length, b.length) + 6) return [];
    const lengths = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        lengths[i][j] = a[i] === b[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
      }
    }
    const isOwn = [a.map(() => true), b.map(() => true)];
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (a[i] === b[j]) isOwn[0][i++] = isOwn[1][j++] = false;
      else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
      else j++;
    }
    return [marked(a, isOwn[0]), marked(b, isOwn[1])];
  };
  const marked = (tokens, isOwn) => {
    const parts = [];
    for (let n = 0; n < tokens.length;) {
      const start = n, own = isOwn[n];
      while (n < tokens.length && isOwn[n] === own) n++;
      const part = tokens.slice(start, n).join("");
      parts.push(own && part.trim() ? element("mark", "", part) : part);
    }
    return parts;
  };

  const turn = (step) => {
    place = Math.max(0, place + step * index.size);
    show(++latest);
    at("pager").closest("section").scrollIntoView({ block: "start" });
  };
  let waiting;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(apply, index?.count > 5_000 ? 250 : 0);
  });
  for (const one of [order, scorer, outcome, ...slices]) one?.addEventListener("change", apply);
  marking?.addEventListener("change", () => show(++latest));
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  for (const choice of choices) {
    choice.addEventListener("click", () => {
      kind = choice.dataset.kind;
      for (const one of choices) one.ariaPressed = String(one === choice);
      apply();
    });
  }
  for (const head of document.querySelectorAll("th [data-sort]")) {
    head.addEventListener("click", () => {
      const name = head.dataset.sort, up = `${name}|up`, down = `${name}|down`;
      order.value = order.value === up ? down : up;
      apply();
    });
  }
  body.addEventListener("click", (event) => {
    if (String(getSelection())) return;
    const row = event.target.closest("tr");
    const open = row.classList.toggle("open");
    row.querySelector("button").ariaExpanded = String(open);
  });
  unpacked(at("index")).then((found) => { index = found; return apply(); }).catch((error) => {
    say(`The rows cannot be shown: ${error.message}`);
  });
})();
