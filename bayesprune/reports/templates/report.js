"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  for (const run of page.runs) for (const layer of run.layers) layer.names ??= layer.theta[0].map((_, k) => String(k));
  const GAP = 1, LARGEST = 16, SMALLEST = 3;
  const ON = [61, 133, 198], UNDECIDED = [208, 122, 16], OFF = [128, 128, 128];

  const nats = (value) => (value === null ? "–" : Number(value.toPrecision(3)).toString().replace("-", "−"));
  const whole = (value) => Math.round(value).toLocaleString("en");

  // Charts -----------------------------------------------------------------------------------------------------------
  const drawn = Object.entries(page.charts).map(([key, spec]) => {
    const tooltip = { theme: "own", disableDefaultStyle: true };
    const options = { mode: "vega", renderer: "svg", actions: false, tooltip };
    return vegaEmbed(`#chart-${CSS.escape(key)}`, spec, options).then(({ view }) => [key, view]);
  });
  const views = Promise.all(drawn).then(Object.fromEntries);

  // The network ------------------------------------------------------------------------------------------------------
  function colour(theta) {
    const [from, to, part] = theta < 0.5 ? [OFF, UNDECIDED, 2 * theta] : [UNDECIDED, ON, 2 * theta - 1];
    const mixed = from.map((value, k) => Math.round(value + part * (to[k] - value)));
    return `rgb(${mixed.join(" ")} / ${theta < 0.5 ? 0.22 + 0.78 * Math.min(1, 4 * theta) : 1})`;
  }

  /** Where the cells of a layer are: columns, size of a cell, and the place of each. */
  function arrange(layer, width) {
    const n = layer.names.length;
    if (layer.shape) {
      const [channels, rows, columns] = layer.shape;
      const across = channels * columns + channels - 1;
      const size = Math.max(SMALLEST, Math.min(LARGEST, Math.floor(width / across)));
      const at = (k) => {
        const inside = k % (rows * columns);
        return [Math.floor(k / (rows * columns)) * (columns + 1) + (inside % columns), Math.floor(inside / columns)];
      };
      return { size, at, columns, across, down: rows };
    }
    const size = n <= 12 ? 2 * LARGEST : n <= 40 ? LARGEST : n <= 700 ? 11 : n <= 4000 ? 6 : SMALLEST;
    const columns = Math.max(1, Math.min(n, Math.floor(width / size)));
    return { size, at: (k) => [k % columns, Math.floor(k / columns)], columns, across: columns, down: Math.ceil(n / columns) };
  }

  class Layer {
    constructor(run, layer, place, pointAt) {
      Object.assign(this, { run, layer, pointAt, picked: 0, frame: run.epochs.length - 1 });
      this.box = document.createElement("div");
      this.box.className = "layer";
      this.box.innerHTML = '<div class="name"><span></span><output></output></div><div role="slider" tabindex="0"><canvas></canvas></div>';
      this.box.querySelector("span").textContent = layer.title;
      this.slider = this.box.querySelector("[role=slider]");
      this.canvas = this.box.querySelector("canvas");
      this.canvas.setAttribute("aria-hidden", "true");
      this.slider.setAttribute("aria-label", `Structures of ${layer.title}`);
      this.slider.setAttribute("aria-valuemin", 0);
      this.slider.setAttribute("aria-valuemax", layer.names.length - 1);
      this.slider.addEventListener("keydown", (event) => this.key(event));
      this.slider.addEventListener("focus", () => this.pick(this.picked));
      this.canvas.addEventListener("pointermove", (event) => this.point(event));
      this.canvas.addEventListener("pointerdown", (event) => this.point(event));
      place.append(this.box);
      this.say();
    }

    key(event) {
      const { columns } = this.plan, last = this.layer.names.length - 1;
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -10 * columns, PageDown: 10 * columns };
      const to = event.key === "Home" ? 0 : event.key === "End" ? last : this.picked + step[event.key];
      if (Number.isNaN(to)) return;
      event.preventDefault();
      this.pick(Math.max(0, Math.min(last, to)));
    }

    point(event) {
      const { size, at } = this.plan;
      const column = Math.floor(event.offsetX / size), row = Math.floor(event.offsetY / size);
      const found = this.layer.names.findIndex((_, k) => at(k)[0] === column && at(k)[1] === row);
      if (found >= 0 && (found !== this.picked || !this.chosen)) this.pick(found);
    }

    pick(k) {
      this.picked = k;
      this.pointAt(this, k);
      this.say();
    }

    say() {
      this.slider.setAttribute("aria-valuenow", this.picked);
      this.slider.setAttribute("aria-valuetext", `${this.layer.names[this.picked]}: ${this.state(this.picked)}`);
    }

    state(k) {
      const gone = this.layer.removals[k];
      const theta = this.layer.theta[this.run.epochs.length - 1][k];
      if (gone) return `removed after step ${whole(gone[0])}${gone[2] ? ", forced by the budget" : ""}`;
      return theta > 0.5 ? "stays" : "off at the end";
    }

    show(frame, chosen) {
      Object.assign(this, { frame, chosen });
      const { layer, canvas } = this, theta = layer.theta[frame];
      const plan = (this.plan = arrange(layer, this.box.clientWidth));
      const dots = window.devicePixelRatio || 1, width = plan.across * plan.size, height = plan.down * plan.size;
      canvas.width = width * dots;
      canvas.height = height * dots;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      const pen = canvas.getContext("2d");
      pen.scale(dots, dots);
      const side = plan.size - GAP;
      theta.forEach((value, k) => {
        const [x, y] = plan.at(k);
        pen.fillStyle = colour(value);
        pen.fillRect(x * plan.size, y * plan.size, side, side);
      });
      if (chosen) {
        const [x, y] = plan.at(this.picked);
        pen.strokeStyle = getComputedStyle(document.body).color;
        pen.lineWidth = 2;
        pen.strokeRect(x * plan.size, y * plan.size, side, side);
      }
      const on = theta.filter((value) => value > 0.5).length;
      this.box.querySelector("output").textContent = `${whole(on)} of ${whole(theta.length)} on`;
    }
  }

  class Network {
    constructor(run, number) {
      const place = document.querySelector(`.layers[data-run="${number}"]`);
      this.ready = views;
      if (!place) return;
      this.run = run;
      this.pointed = document.getElementById(`pointed-${number}`);
      this.moment = document.getElementById(`moment-${number}`);
      this.moment.max = run.epochs.length - 1;
      this.moment.value = this.moment.max;
      this.layers = run.layers.map((layer) => new Layer(run, layer, place, (where, k) => this.point(where, k)));
      this.moment.addEventListener("input", () => this.show());
      new ResizeObserver(() => this.show()).observe(place);
      for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", () => this.show());
      document.querySelectorAll("[name=theme]").forEach((choice) => choice.addEventListener("change", () => this.show()));
      this.show();
      this.ready = views.then((found) => {
        this.view = found[`${number}-theta`];
        const first = this.layers[0];
        first.pick(Math.max(0, first.layer.theta.at(-1).findIndex((value) => value > 0.5)));
      });
    }

    show() {
      const frame = Number(this.moment.value), { epochs } = this.run;
      this.layers.forEach((layer) => layer.show(frame, layer === this.at));
      const on = this.layers.reduce((sum, { layer }) => sum + layer.theta[frame].filter((value) => value > 0.5).length, 0);
      const said = `${epochs[frame]} of ${epochs.at(-1)}, ${whole(on)} structure${on === 1 ? "" : "s"} on`;
      this.moment.nextElementSibling.textContent = said;
      this.moment.setAttribute("aria-valuetext", said);
    }

    point(where, k) {
      const before = this.at;
      this.at = where;
      for (const layer of new Set([before, where])) if (layer) layer.show(layer.frame, layer === where);
      const { layer } = where, path = layer.theta.map((theta, t) => ({ epoch: this.run.epochs[t], theta: theta[k] }));
      const [price, net, error] = layer.evidence[k], gone = layer.removals[k];
      const rows = [["decision", where.state(k)], ["θ at the end", nats(path.at(-1).theta)]];
      if (price !== null) rows.push(["price, nats", nats(price)], ["worth, nats", nats(price - net) + (error === null ? "" : ` ± ${Number((1.96 * error).toPrecision(2))}`)]);
      if (layer.saved) {
        const [params, macs] = layer.saved[layer.saved.length > 1 ? k : 0];
        rows.push(["parameters alone", whole(params)], ["multiply-adds alone", whole(macs)]);
      }
      if (gone && gone[1]) rows.push(["norm of its weights", nats(gone[1])]);
      const kind = { inputs: "input", branches: "branch" }[layer.kind] || `${layer.title}, structure`;
      this.pointed.querySelector(".title").textContent = `${kind} ${this.name(layer, k)}`;
      this.pointed.querySelector("dl").replaceChildren(...rows.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
      if (this.view) this.view.data("theta", path).run();
    }

    name(layer, k) {
      if (!layer.shape) return layer.names[k];
      const [channels, rows, columns] = layer.shape, inside = k % (rows * columns);
      const channel = channels > 1 ? `, channel ${Math.floor(k / (rows * columns))}` : "";
      return `row ${Math.floor(inside / columns)}, column ${inside % columns}${channel}`;
    }
  }

  function element(name, text) {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  }

  // Filters ----------------------------------------------------------------------------------------------------------
  function drawFilters(run, number) {
    const place = document.getElementById(`filters-${number}`);
    if (!place) return;
    const { shape: [channels, rows, columns], values } = run.filters;
    for (const filter of values) {
      const canvas = element("canvas", "");
      [canvas.width, canvas.height] = [columns, rows];
      const image = new ImageData(columns, rows);
      for (let k = 0; k < rows * columns; k++) {
        for (let c = 0; c < 3; c++) image.data[4 * k + c] = filter[(channels === 3 ? c : 0) * rows * columns + k];
        image.data[4 * k + 3] = 255;
      }
      canvas.getContext("2d").putImageData(image, 0, 0);
      place.append(canvas);
    }
  }

  // Paper ------------------------------------------------------------------------------------------------------------
  const folded = [...document.querySelectorAll("details.printed")];
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = folded.filter((each) => !each.open);
    opened.forEach((each) => (each.open = true));
  });
  addEventListener("afterprint", () => opened.forEach((each) => (each.open = false)));

  const networks = page.runs.map((run, number) => new Network(run, number));
  page.runs.forEach(drawFilters);
  Promise.all(networks.map(({ ready }) => ready)).then(() => {
    document.documentElement.dataset.drawn = drawn.length;
  });
})();
