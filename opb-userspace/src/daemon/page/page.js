// Fetches the live part again. The page is whole without it.
"use strict";
const live = document.getElementById("live");
const pause = document.getElementById("pause");
let paused = false;
pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  const text = pause.textContent;
  pause.textContent = pause.dataset.resume;
  pause.dataset.resume = text;
});
setInterval(async () => {
  // Not under the reader's hands.
  if (paused || document.hidden || live.contains(document.activeElement)) return;
  try {
    const answer = await fetch("/live?lang=" + live.dataset.lang);
    if (!answer.ok) return;
    const part = new DOMParser().parseFromString(await answer.text(), "text/html");
    live.replaceChildren(...part.body.childNodes);
  } catch {
    // The daemon is restarting.
  }
}, 2000);
