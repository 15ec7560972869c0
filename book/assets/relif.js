/* Makes the columns of tables from relif_book.figures.tables sortable by mouse and keyboard. */
document.addEventListener("DOMContentLoaded", () => {
  /* The number with which a cell begins: "−0.123 ± 0.004", "[−0.01, 0.02]", "1,234", "12 %", "2 of 3", "inf". A cell without
     one, such as the dash of a missing value, gives NaN. A comma is a thousands separator only between digits. */
  const numberIn = (text) => {
    const plain = text.trim().replace(/[−–](?=[\d.i])/g, "-").replace(/(\d),(?=\d{3}\b)/g, "$1");
    const match = plain.match(/^[[(<>≤≥]*\s*([-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+|inf))/i);
    return match ? parseFloat(match[1].replace(/inf/i, "Infinity")) : NaN;
  };
  const isMissing = (text) => ["–", ""].includes(text.trim());
  const compareTexts = new Intl.Collator("en").compare;

  for (const table of document.querySelectorAll("table.relif-table")) {
    const body = table.tBodies[0];
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      const text = (row) => row.cells[column].textContent;
      /* Numbers in every cell that is not missing make a column numeric; "undefined" and the like stand beside them. */
      const values = [...body.rows].map(text).filter((value) => !isMissing(value));
      const numbers = values.filter((value) => !Number.isNaN(numberIn(value))).length;
      const numeric = numbers > 0 && (header.classList.contains("relif-number") || numbers === values.length);
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = header.textContent;
      header.replaceChildren(button);
      button.addEventListener("click", () => {
        const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        const absent = (row) => (numeric ? Number.isNaN(numberIn(text(row))) : isMissing(text(row)));
        const order = (a, b) => {
          /* What is missing comes last in both directions. */
          if (absent(a) || absent(b)) return absent(a) - absent(b);
          if (!numeric) return direction * compareTexts(text(a), text(b));
          const [first, second] = [numberIn(text(a)), numberIn(text(b))];
          return first === second ? 0 : direction * (first < second ? -1 : 1);
        };
        body.replaceChildren(...[...body.rows].sort(order));
        headers.forEach((other) => other.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      });
    });
  }
});
