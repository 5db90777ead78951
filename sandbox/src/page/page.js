// The page works without this script. With it, what changes is swapped in place, and a form does not reload the page.

const latest = {};
const GONE = "The sandbox did not answer. What you typed is still here. Press the button again: if the change was already made, it is not made again.";
const PATIENCE_MILLISECONDS = 15000;

function show(fragments) {
  const focused = document.activeElement?.id;
  for (const [id, html] of Object.entries(fragments)) {
    const place = document.getElementById(id);
    // A part that has not changed is left alone, so that text selected in it stays selected.
    if (place && place.innerHTML !== html) place.innerHTML = html;
  }
  // An element that was replaced has lost the focus.
  if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

// Each event holds those parts of the page that have changed, rendered and escaped by the server. A browser keeps six
// connections to one address. So one window of a browser has a connection, and shares what it receives. When it is closed,
// another takes over.
const windows = new BroadcastChannel("live");
function receive(news) {
  Object.assign(latest, news.fragments);
  show(news.fragments);
  document.getElementById("gone").hidden = !news.gone;
}
windows.onmessage = ({ data }) => receive(data);
function share(fragments, isGone) {
  const news = { fragments, gone: isGone };
  windows.postMessage(news);
  receive(news);
}
function follow() {
  const live = new EventSource("/live");
  live.onmessage = (event) => share(JSON.parse(event.data), false);
  live.onopen = () => share({}, false);
  live.onerror = () => share({}, true);
  // The connection, and with it the lock, is kept until the window is closed.
  return new Promise(() => {});
}
// Without a secure address there are no locks, and each window has its own connection.
if (navigator.locks) navigator.locks.request("live", follow);
else follow();

// The second click of a double click would press the button that the first click has put there.
document.addEventListener("click", (event) => {
  if (event.detail > 1 && event.target.closest("form[method=post] button")) event.preventDefault();
});

async function send(form, body) {
  const answer = await fetch(form.action, { method: "POST", body, signal: AbortSignal.timeout(PATIENCE_MILLISECONDS) })
    .catch(() => { throw new Error(GONE); });
  const text = await answer.text().catch(() => { throw new Error(GONE); });
  const page = new DOMParser().parseFromString(text, "text/html");
  if (!page.querySelector("main")) {
    throw new Error(`The sandbox answered ${answer.status} without a page: ${page.body.textContent.slice(0, 200)} What you typed is still here.`);
  }
  return { answer, page };
}

function complain(form, message) {
  const complaint = document.createElement("p");
  complaint.className = "trouble complaint";
  complaint.role = "alert";
  complaint.textContent = message;
  form.append(complaint);
}

// Of the new page only the section with the form is taken, so that what is typed elsewhere stays.
function swap(form, { answer, page }) {
  document.getElementById("outcome")?.remove();
  const section = form.closest("section");
  const label = section.getAttribute("aria-labelledby");
  section.replaceWith(page.querySelector(`section[aria-labelledby=${label}]`));
  document.getElementById("problems").replaceWith(page.getElementById("problems"));
  document.title = page.title;
  if (answer.redirected) history.replaceState(null, "", answer.url);
  show(latest);
  document.getElementById("outcome")?.focus({ preventScroll: answer.ok });
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  event.preventDefault();
  if (form.ariaBusy === "true") return;
  form.ariaBusy = "true";
  form.querySelector(".complaint")?.remove();
  try {
    swap(form, await send(form, new URLSearchParams(new FormData(form, event.submitter))));
  } catch (error) {
    complain(form, error.message);
  } finally {
    form.ariaBusy = "false";
  }
});
