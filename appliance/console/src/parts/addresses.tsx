import type { Column } from "./table";
import { Foreign } from "./text";

interface Addressed {
  mac: string;
  ips: readonly string[];
}

/** The columns of what has a MAC and IP addresses. */
export const addressColumns: readonly Column<Addressed>[] = [
  {
    key: "mac",
    title: "MAC",
    text: ({ mac }) => mac,
    cell: ({ mac }) => <Foreign text={mac} code />,
  },
  {
    key: "ips",
    title: "Addresses",
    text: ({ ips }) => ips[0] ?? "",
    cell: ({ ips }) => <Foreign text={ips.join(", ")} code />,
  },
];
