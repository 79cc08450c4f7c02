/** Which rows of a list are shown: pure, so that a thousand rows can be tested without a page. */

export interface Column<Row> {
  key: string;
  title: string;
  /** What the column is sorted and searched by. */
  text: (row: Row) => string | number;
  isSortable?: boolean;
}

export interface Wanted {
  text: string;
  sort: string; // key of a column, "-" before it: downwards
  page: number; // from 1
  size: number;
}

/** `prefix`: before the names of its parameters, where an address has those of two lists. */
export function wantedFrom(
  search: URLSearchParams,
  sort: string,
  size: number,
  prefix = "",
): Wanted {
  const page = Number(search.get(`${prefix}page`));
  return {
    text: search.get(`${prefix}q`) ?? "",
    sort: search.get(`${prefix}sort`) ?? sort,
    page: Number.isInteger(page) && page > 0 ? page : 1,
    size,
  };
}

const order = new Intl.Collator("en", { numeric: true });

export function chosen<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  searched: (row: Row) => readonly string[],
  wanted: Wanted,
): { rows: Row[]; found: number; page: number } {
  const text = wanted.text.trim().toLowerCase();
  const found = text
    ? rows.filter((row) => searched(row).some((each) => each.toLowerCase().includes(text)))
    : [...rows];
  const isDown = wanted.sort.startsWith("-");
  const column = columns.find(({ key }) => key === wanted.sort.replace(/^-/, ""));
  if (column) {
    const sign = isDown ? -1 : 1;
    found.sort((a, b) => sign * compare(column.text(a), column.text(b)));
  }
  const pages = Math.max(1, Math.ceil(found.length / wanted.size));
  const page = Math.min(wanted.page, pages);
  return {
    rows: found.slice((page - 1) * wanted.size, page * wanted.size),
    found: found.length,
    page,
  };
}

function compare(a: string | number, b: string | number): number {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return order.compare(String(a), String(b));
}
