// The page works without this script. With it, what changes is swapped in place, and a form does not reload the page.

const latest = {};

function show(fragments) {
  for (const [id, html] of Object.entries(fragments)) {
    const place = document.getElementById(id);
    if (place) place.innerHTML = html;
  }
}

// Each event holds those parts of the page that have changed, rendered and escaped by the server.
const live = new EventSource("/live");
live.onmessage = (event) => {
  const fragments = JSON.parse(event.data);
  Object.assign(latest, fragments);
  show(fragments);
};
live.onopen = () => { document.getElementById("gone").hidden = true; };
live.onerror = () => { document.getElementById("gone").hidden = false; };

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  event.preventDefault();
  try {
    const body = new URLSearchParams(new FormData(form, event.submitter));
    const answer = await fetch(form.action, { method: "POST", body });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    document.title = page.title;
    if (answer.redirected) history.replaceState(null, "", answer.url);
    show(latest);
    const outcome = document.getElementById("outcome");
    outcome?.focus({ preventScroll: answer.ok });
  } catch {
    form.submit();
  }
});
