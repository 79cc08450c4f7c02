import { Button, Card, CardBody, CardTitle } from "@patternfly/react-core";
import { useMemo, type ReactNode } from "react";
import { Link, useSearchParams } from "react-router";
import type { Schemas } from "../../api/client";
import { addressNow } from "../../parts/table";
import { Foreign } from "../../parts/text";
import { inert, plural } from "../../parts/words";
import { bandOf } from "../topology/layout";
import { betweenSites, matrixOf, type Cell, type Measured } from "./matrix";

const NAMES_MAX = 40;
const LOSS_SHOWN = 0.005;

interface SquareProps {
  rows: readonly Schemas["LatencyRowOut"][];
  site: (node: string) => string;
  named: (node: string) => { id: string; name: string };
  /** Sites whose nodes are shown; none: the sites themselves. */
  between: readonly string[];
}

/** Everything with everything: sites first, the nodes of two sites where one is clicked. */
export function Square({ rows, site, named, between }: SquareProps) {
  const [, setSearch] = useSearchParams();
  const isByNode = between.length > 0;
  const there = useMemo(() => {
    if (!isByNode) return rows;
    const [one = "", other = one] = between;
    return rows.filter(
      ({ a, b }) =>
        (site(a) === one && site(b) === other) || (site(a) === other && site(b) === one),
    );
  }, [rows, site, between, isByNode]);
  const matrix = useMemo(
    () => matrixOf(there as readonly Measured[], isByNode ? (id) => id : site),
    [there, isByNode, site],
  );
  const names = [...matrix.names]
    .sort((a, b) => (isByNode ? named(a).name.localeCompare(named(b).name) : 0))
    .slice(0, NAMES_MAX);
  const shown = (name: string): string => inert(isByNode ? named(name).name : name);
  const [one = "", other = one] = between;
  const sites = one === other ? betweenSites(one, other) : `nodes of ${betweenSites(one, other)}`;
  const what = isByNode ? inert(`N${sites.slice(1)}`) : "Sites";
  const open = (row: string, column: string): void => {
    const after = addressNow();
    const key = isByNode ? "pair" : "site";
    after.delete(key);
    after.append(key, row);
    after.append(key, column);
    setSearch(after);
  };
  return (
    <Card>
      <CardTitle component="h2">{what}, the highest RTT and loss</CardTitle>
      <CardBody className="cairn-stack">
        {isByNode && (
          <div>
            <Button variant="secondary" onClick={() => setSearch({})}>
              All sites
            </Button>
          </div>
        )}
        <div className="cairn-wide" tabIndex={0} role="region" aria-label={what}>
          <table className="cairn-square">
            <thead>
              <tr>
                <td />
                {names.map((name) => (
                  <th key={name} scope="col">
                    <bdi>{shown(name)}</bdi>
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {names.map((row) => (
                <tr key={row}>
                  <th scope="row">
                    <bdi>{shown(row)}</bdi>
                  </th>
                  {names.map((column) => (
                    <td key={column}>
                      <Value
                        cell={matrix.at(row, column)}
                        says={
                          isByNode
                            ? `${shown(row)} and ${shown(column)}`
                            : inert(betweenSites(row, column))
                        }
                        open={() => open(row, column)}
                      />
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
        {matrix.names.length > NAMES_MAX && (
          <p>
            The first {NAMES_MAX} of {plural(matrix.names.length, isByNode ? "node" : "site")}; the
            table below has all.
          </p>
        )}
      </CardBody>
    </Card>
  );
}

function Value({ cell, says, open }: { cell?: Cell; says: string; open: () => void }) {
  if (!cell) return null;
  const band = bandOf({ up: true, rtt_ms: cell.rtt_ms }).replace(" ", "-");
  return (
    <button
      type="button"
      className="cairn-cell"
      title={`${says}: ${plural(cell.pairs, "pair")}`}
      onClick={open}
    >
      <span className={`cairn-band cairn-band-${band}`} /> {cell.rtt_ms.toFixed(1)} ms
      {cell.loss >= LOSS_SHOWN && <strong> {(cell.loss * 100).toFixed(0)} % loss</strong>}
      <span className="pf-v6-screen-reader"> between {says}</span>
    </button>
  );
}

export function PairLink({ a, b, children }: { a: string; b: string; children: ReactNode }) {
  const [search] = useSearchParams();
  const to = new URLSearchParams(search);
  to.delete("pair");
  to.append("pair", a);
  to.append("pair", b);
  return <Link to={`?${to.toString()}`}>{children}</Link>;
}

export function PairTitle({ a, b }: { a: { name: string }; b: { name: string } }) {
  return (
    <>
      <Foreign text={a.name} /> and <Foreign text={b.name} />
    </>
  );
}
