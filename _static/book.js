// The theme labels some controls with text that does not contain what they show; screen readers then read one thing
// and a sighted helper another. Drop those labels, the visible text is better.
document.addEventListener("DOMContentLoaded", () => {
  // docutils calls the bibliography a list, but its entries are not list items: a promise that a screen reader breaks.
  for (const node of document.querySelectorAll(".citation-list[role=list]")) node.removeAttribute("role");
  for (const node of document.querySelectorAll("details.hide summary[aria-label], button.search-button[aria-label], button.search-button-field[aria-label], button.theme-switch-button[aria-label]")) {
    if (node.textContent.trim()) node.removeAttribute("aria-label");
  }
});
