/* Makes the columns of tables from relif_core.pages.tables sortable by mouse and keyboard. */
document.addEventListener("DOMContentLoaded", () => {
  const numberIn = (text) => {
    const match = text.replace(/,/g, "").replace("−", "-").match(/[-+]?\d*\.?\d+(e[-+]?\d+)?/i);
    return match ? parseFloat(match[0]) : Number.POSITIVE_INFINITY;
  };
  for (const table of document.querySelectorAll("table.relif-table")) {
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = header.textContent;
      header.replaceChildren(button);
      button.addEventListener("click", () => {
        const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        const numeric = header.classList.contains("relif-number");
        const key = (row) => row.cells[column].textContent;
        const rows = [...table.tBodies[0].rows].sort((a, b) =>
          direction * (numeric ? numberIn(key(a)) - numberIn(key(b)) || 0 : key(a).localeCompare(key(b))));
        table.tBodies[0].replaceChildren(...rows);
        headers.forEach((other) => other.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      });
    });
  }
});
