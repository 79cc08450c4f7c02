import {
  Pagination,
  SearchInput,
  Toolbar,
  ToolbarContent,
  ToolbarItem,
  FormSelect,
  FormSelectOption,
} from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { useEffect, useState, type ReactNode } from "react";
import { useSearchParams } from "react-router";
import { chosen, wantedFrom, type Column as Listed } from "./list";

const SIZE = 50;

export interface Column<Row> extends Listed<Row> {
  cell: (row: Row) => ReactNode;
}

export interface Choice<Row> {
  key: string;
  label: string;
  options: readonly { value: string; label: string }[];
  /** Absent where the appliance filters itself. */
  wants?: (row: Row, value: string) => boolean;
}

interface ListTableProps<Row> {
  label: string;
  rows: readonly Row[];
  columns: readonly Column<Row>[];
  id: (row: Row) => string;
  searched: (row: Row) => readonly string[];
  sort: string;
  choices?: readonly Choice<Row>[];
  actions?: ReactNode;
  rowActions?: (row: Row) => ReactNode;
  /** Before its parameters of the address: a second list on a page has one. */
  prefix?: string;
}

/** Sets one parameter of the address; an empty one goes. */
export function useParameter(prefix = ""): (key: string, value: string) => void {
  const [, setSearch] = useSearchParams();
  return (key, value) => {
    const after = addressNow();
    if (value) after.set(prefix + key, value);
    else after.delete(prefix + key);
    if (key !== "page") after.delete(`${prefix}page`);
    setSearch(after, { replace: true });
  };
}

/** The address's parameters now: those that were drawn last may be older, and would undo a click. */
export function addressNow(): URLSearchParams {
  return new URLSearchParams(window.location.search);
}

interface FilterFieldProps {
  label: string;
  placeholder: string;
  value: string;
  set: (value: string) => void;
}

/** A filter that is typed, and shown as typed until the address has it. */
export function FilterField({ label, placeholder, value, set }: FilterFieldProps) {
  const [typed, setTyped] = useState<string>(); // until the address has it
  useEffect(() => {
    // By what is typed now: the person may have gone on since this was drawn.
    setTyped((now) => (now === value ? undefined : now));
  }, [typed, value]);
  const take = (text: string): void => {
    setTyped(text);
    set(text);
  };
  return (
    <SearchInput
      aria-label={label}
      placeholder={placeholder}
      value={typed ?? value}
      onChange={(_, text) => take(text)}
      onClear={() => take("")}
    />
  );
}

/** A table whose filter, order and page are in the address. */
export function ListTable<Row>(props: ListTableProps<Row>) {
  const [search] = useSearchParams();
  const prefix = props.prefix ?? "";
  const set = useParameter(prefix);
  const wanted = wantedFrom(search, props.sort, SIZE, prefix);
  const choices = props.choices ?? [];
  const rows = props.rows.filter((row) =>
    choices.every(({ key, wants }) => {
      const value = search.get(prefix + key);
      return !value || !wants || wants(row, value);
    }),
  );
  const shown = chosen(rows, props.columns, props.searched, wanted);
  const isDown = wanted.sort.startsWith("-");
  const sorted = props.columns.findIndex(({ key }) => key === wanted.sort.replace(/^-/, ""));
  const what = props.label.charAt(0).toLowerCase() + props.label.slice(1);
  return (
    <>
      <Toolbar>
        <ToolbarContent>
          <ToolbarItem>
            <FilterField
              label={`Filter ${what}`}
              placeholder={`Filter ${what}`}
              value={wanted.text}
              set={(text) => set("q", text)}
            />
          </ToolbarItem>
          {choices.map(({ key, label, options }) => (
            <ToolbarItem key={key}>
              <FormSelect
                aria-label={label}
                value={search.get(prefix + key) ?? ""}
                onChange={(_, value) => set(key, value)}
              >
                <FormSelectOption value="" label={`${label}: all`} />
                {options.map((option) => (
                  <FormSelectOption key={option.value} {...option} />
                ))}
              </FormSelect>
            </ToolbarItem>
          ))}
          {props.actions && <ToolbarItem>{props.actions}</ToolbarItem>}
          <ToolbarItem variant="pagination" align={{ default: "alignEnd" }}>
            <Pagination
              itemCount={shown.found}
              perPage={SIZE}
              page={shown.page}
              perPageOptions={[]}
              isCompact
              titles={{ paginationAriaLabel: `Pages of ${what}` }}
              onSetPage={(_, page) => set("page", page > 1 ? String(page) : "")}
            />
          </ToolbarItem>
        </ToolbarContent>
      </Toolbar>
      <Table aria-label={props.label} variant="compact">
        <Thead>
          <Tr>
            {props.columns.map((column, index) => (
              <Th
                key={column.key}
                modifier="nowrap"
                sort={
                  column.isSortable === false
                    ? undefined
                    : {
                        columnIndex: index,
                        sortBy: { index: sorted, direction: isDown ? "desc" : "asc" },
                        onSort: (_event, _index, direction) =>
                          set("sort", `${direction === "desc" ? "-" : ""}${column.key}`),
                      }
                }
              >
                {column.title}
              </Th>
            ))}
            {props.rowActions && <Th screenReaderText="Actions" />}
          </Tr>
        </Thead>
        <Tbody>
          {shown.rows.map((row) => (
            <Tr key={props.id(row)}>
              {props.columns.map((column) => (
                <Td key={column.key} dataLabel={column.title}>
                  {column.cell(row)}
                </Td>
              ))}
              {props.rowActions && <Td isActionCell>{props.rowActions(row)}</Td>}
            </Tr>
          ))}
          {shown.rows.length === 0 && (
            <Tr>
              <Td colSpan={props.columns.length + (props.rowActions ? 1 : 0)}>
                None of {props.rows.length.toLocaleString("en")} {what} fits the filter.
              </Td>
            </Tr>
          )}
        </Tbody>
      </Table>
    </>
  );
}
