import { Card, CardBody, CardTitle } from "@patternfly/react-core";
import { useQuery } from "@tanstack/react-query";
import { answered, api } from "../../api/client";
import { Shown } from "../../parts/states";
import { Age } from "../../parts/text";
import { lineOf } from "./matrix";
import { PairTitle } from "./Square";

const WIDTH = 900;
const HEIGHT = 120;

interface HistoryProps {
  a: { id: string; name: string };
  b: { id: string; name: string };
}

/** The last hour of one path, as this appliance has followed it. */
export function History({ a, b }: HistoryProps) {
  const history = useQuery({
    queryKey: ["latency", "history", a.id, b.id],
    queryFn: ({ signal }) =>
      answered(
        api.GET("/api/v1/latency/{a}/{b}", { params: { path: { a: a.id, b: b.id } }, signal }),
      ),
  });
  return (
    <Card>
      <CardTitle component="h2">
        The last hour of <PairTitle a={a} b={b} />
      </CardTitle>
      <CardBody>
        <Shown
          query={history}
          what="points"
          isEmpty={({ points }) => points.length === 0}
          empty={{
            title: "Nothing is kept yet",
            body: "The appliance that an agent is connected to keeps a point each 30 s.",
          }}
        >
          {({ points }) => {
            const { points: line, most } = lineOf(
              points.map(({ rtt_ms }) => rtt_ms),
              WIDTH,
              HEIGHT,
            );
            const least = Math.min(...points.map(({ rtt_ms }) => rtt_ms));
            const lost = Math.max(...points.map(({ loss }) => loss)) * 100;
            const says = `RTT from ${least.toFixed(2)} to ${most.toFixed(2)} ms, loss up to ${lost.toFixed(1)} %`;
            return (
              <div className="cairn-stack">
                <svg
                  role="img"
                  aria-label={says}
                  viewBox={`0 -4 ${String(WIDTH + 6)} ${String(HEIGHT + 8)}`}
                  className="cairn-line"
                  preserveAspectRatio="none"
                >
                  <line x1="0" y1={HEIGHT} x2={WIDTH} y2={HEIGHT} />
                  <polyline
                    className={points.length === 1 ? "cairn-dot" : undefined}
                    points={line}
                  />
                </svg>
                <p>
                  {says}; the first point is of <Age at={points[0]?.at} />.
                </p>
              </div>
            );
          }}
        </Shown>
      </CardBody>
    </Card>
  );
}
