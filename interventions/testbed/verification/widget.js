// Draws the state of a `Verification` and sends keys and selected words back. What they mean is decided in Python.

const KEYS = [
  ["a", "accept", "accept"],
  ["v", "visual", "visual constraint"],
  ["t", "text", "text constraint"],
  ["x", "clear", "no text constraint"],
  ["r", "reject", "reject"],
  ["c", "comment", "comment"],
  ["b", "back", "back"],
  ["n", "next", "next"],
  ["u", "undo", "undo"],
];
const ACTIONS = { ...Object.fromEntries(KEYS), ArrowLeft: "back", ArrowRight: "next" };
const FIELDS = ["visual_replacement", "text_replacement", "comment"];
const PATIENCE = 5000; // milliseconds until a kernel that does not answer is reported

const PAGE = `
  <div class="verify-head"><span data-ref="place"></span><span data-ref="progress"></span></div>
  <progress data-ref="bar"></progress>
  <div class="verify-body" data-ref="body">
    <div class="verify-image"><img data-ref="image" alt="image of the question"><p data-ref="image_problem"></p></div>
    <div class="verify-words">
      <div class="verify-question" data-ref="question"></div>
      <div class="verify-table">
        <span>visual constraint</span><div><mark class="verify-visual" data-ref="visual"></mark></div>
        <span>replaced by</span>
        <div><input data-ref="visual_replacement" aria-label="replacement of the visual constraint">
          <div class="verify-preview" data-ref="preview_visual"></div></div>
        <span>text constraint</span><div><mark class="verify-text" data-ref="text"></mark></div>
        <span data-ref="text_label">replaced by</span>
        <div data-ref="text_field"><input data-ref="text_replacement" aria-label="replacement of the text constraint">
          <div class="verify-preview" data-ref="preview_text"></div></div>
        <span>answers</span><div data-ref="answers"></div>
        <span>image shows</span><div data-ref="entity"></div>
        <span>comment</span><div><input data-ref="comment" aria-label="comment"></div>
      </div>
      <p class="verify-decision" data-ref="decision"></p>
    </div>
  </div>
  <p class="verify-message" role="status" data-ref="message"></p>
  <div class="verify-keys" data-ref="keys"></div>
  <p class="verify-hint">Click here to use the keys.</p>`;

function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "verify";
  root.tabIndex = 0;
  root.role = "group";
  root.ariaLabel = "question to verify";
  root.innerHTML = PAGE;
  el.append(root);
  const ref = Object.fromEntries([...root.querySelectorAll("[data-ref]")].map((node) => [node.dataset.ref, node]));
  let state = {};
  let selection = null; // [first, last] of the question's pieces
  let sent = 0;
  let timer = null;
  let url = "";

  const show = (kind, text) => {
    ref.message.dataset.kind = kind;
    ref.message.textContent = text;
  };
  const unheard = () =>
    show(
      "problem",
      "The kernel does not answer, and what it has not answered is not saved. " +
        "If it is not merely busy, run the cells again.",
    );

  function send(action) {
    const visible = FIELDS.filter((name) => ref[name].offsetParent);
    const fields = Object.fromEntries(visible.map((name) => [name, ref[name].value]));
    clearTimeout(timer);
    timer = setTimeout(unheard, PATIENCE);
    root.ariaBusy = "true";
    try {
      model.send({ number: ++sent, action, item: state.item, selection, fields });
    } catch {
      unheard();
    }
  }

  function act(action) {
    if (action === "comment") ref.comment.focus();
    else if (state.item !== null) send(action);
  }

  for (const [key, action, label] of KEYS) {
    const button = document.createElement("button");
    button.innerHTML = `<kbd>${key}</kbd> <span>${label}</span>`;
    button.dataset.action = action;
    button.addEventListener("click", () => {
      root.focus({ preventScroll: true });
      act(action);
    });
    ref.keys.append(button);
  }
  const acceptLabel = ref.keys.querySelector('[data-action="accept"] span');

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // JupyterLab's and the browser's own
    event.stopPropagation(); // or JupyterLab would cut, copy or add cells
    if (event.target.tagName === "INPUT") {
      if (event.key === "Enter" || event.key === "Escape") root.focus({ preventScroll: true });
      return;
    }
    const letter = /^[a-z]$/i.test(event.key) ? event.key.toLowerCase() : event.code.replace("Key", "").toLowerCase();
    const action = ACTIONS[event.key] ?? ACTIONS[letter]; // by place on keyboards without these letters
    if (!action) return;
    event.preventDefault();
    if (!event.repeat) act(action);
  });
  ref.image.addEventListener("click", () => ref.body.classList.toggle("verify-large"));
  for (const name of FIELDS) ref[name].addEventListener("change", () => send("edit"));

  // Selecting: whole words, by a click, a drag, or a click with Shift.
  const piece = (event) => event.target.closest("[data-piece]")?.dataset.piece;
  let anchor = null;
  const select = (first, last) => {
    selection = [first, last];
    for (const [place, node] of [...ref.question.children].entries())
      node.classList.toggle("verify-selected", place >= first && place <= last);
  };
  const selectTo = (place) => select(Math.min(anchor, place), Math.max(anchor, place));
  ref.question.addEventListener("pointerdown", (event) => {
    const at = piece(event);
    event.preventDefault();
    root.focus({ preventScroll: true });
    if (at === undefined) return;
    event.target.releasePointerCapture?.(event.pointerId); // a finger, too, moves on to other words
    if (!event.shiftKey || anchor === null) anchor = Number(at);
    selectTo(Number(at));
  });
  ref.question.addEventListener("pointerover", (event) => {
    const at = piece(event);
    if (event.buttons & 1 && anchor !== null && at !== undefined) selectTo(Number(at));
  });

  function spans(node, pieces, numbered) {
    node.replaceChildren(
      ...pieces.map(([text, role], place) => {
        const span = document.createElement(role ? "mark" : "span");
        if (role) span.className = `verify-${role}`;
        if (numbered) span.dataset.piece = place;
        span.textContent = text;
        return span;
      }),
    );
  }

  function draw() {
    const marked = (old) => [old.item, old.visual_constraint, old.text_constraint].join("\n");
    const before = marked(state);
    state = model.get("state");
    if (state.answered === sent) {
      clearTimeout(timer);
      root.ariaBusy = "false";
    }
    if (marked(state) !== before) selection = anchor = null;
    const others = Object.entries(state.others).map(([name, n]) => `${name} ${n}`);
    const own = `${state.done} of ${state.total} decided by ${state.annotator}`;
    ref.progress.textContent = [own, ...others].join(" · ");
    ref.bar.max = Math.max(state.total, 1);
    ref.bar.value = state.done;
    show(state.message.kind, state.message.text);
    ref.body.hidden = ref.keys.hidden = state.item === null;
    if (state.item === null) {
      ref.place.textContent = "Nothing to decide here";
      return;
    }
    ref.place.textContent = `question ${state.position} of ${state.total} · ${state.part} · ${state.item}`;
    spans(ref.question, state.pieces, true);
    if (selection) select(...selection);
    ref.visual.textContent = state.visual_constraint || "not marked yet";
    ref.text.textContent = state.text_constraint || "none";
    ref.visual.classList.toggle("verify-none", !state.visual_constraint);
    ref.text.classList.toggle("verify-none", !state.text_constraint);
    ref.text_label.hidden = ref.text_field.hidden = !state.text_constraint;
    for (const name of FIELDS) if (ref[name] !== document.activeElement) ref[name].value = state[name];
    for (const role of ["visual", "text"]) spans(ref[`preview_${role}`], state.replaced[role] ?? [], false);
    ref.answers.textContent = state.answers.join(" · ");
    ref.entity.textContent = state.entity || "not named";
    ref.decision.textContent = [state.decision || "Not decided yet.", ...state.decisions].join("\n");
    root.classList.toggle("verify-changed", state.changed);
    acceptLabel.textContent = state.corrects ? "accept as corrected" : "accept";
  }

  function drawImage() {
    const bytes = model.get("image");
    URL.revokeObjectURL(url);
    url = bytes.byteLength ? URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" })) : "";
    ref.image.hidden = !url;
    if (url) ref.image.src = url;
    ref.image_problem.textContent = url ? "" : model.get("state").image_problem;
  }

  model.on("change:state", draw);
  model.on("change:state", drawImage);
  draw();
  drawImage();
  return () => {
    clearTimeout(timer);
    URL.revokeObjectURL(url);
    model.off("change:state", draw);
    model.off("change:state", drawImage);
  };
}

export default { render };
