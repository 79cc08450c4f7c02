import type { Schemas } from "../../api/client";

/** Receivers as one list, and the whole that is sent: a PUT replaces all of them. */

type Outputs = Schemas["OutputsOut"];
type Asked = Schemas["OutputsAsked"];
type Syslog = Schemas["SyslogAsked"];
type Webhook = Schemas["WebhookAsked"];
export type Severity = Syslog["min_severity"];
export type Protocol = Syslog["protocol"];

export interface Receiver {
  kind: "syslog" | "webhook";
  id: string;
  where: string;
  min_severity: string;
  last_ok_at: string | null;
  failing_since: string | null;
  last_error: string;
  /** Events that it refused for good. */
  skipped: number;
  ca: string;
  /** Of syslog. */
  host: string;
  port: number;
  protocol: string;
}

const bracketed = (host: string): string => (host.includes(":") ? `[${host}]` : host);

export function receiversOf({ syslog, webhooks }: Outputs): Receiver[] {
  return [
    ...syslog.map((each) => ({
      ...deliveryOf(each),
      kind: "syslog" as const,
      where: `${each.protocol}://${bracketed(each.host)}:${String(each.port)}`,
      host: each.host,
      port: each.port,
      protocol: each.protocol,
    })),
    ...webhooks.map((each) => ({
      ...deliveryOf(each),
      kind: "webhook" as const,
      where: each.url,
      host: "",
      port: 0,
      protocol: "",
    })),
  ];
}

function deliveryOf(each: Outputs["syslog"][number] | Outputs["webhooks"][number]) {
  const { id, min_severity, ca, last_error, skipped } = each;
  return {
    id,
    min_severity,
    ca,
    last_error,
    skipped,
    last_ok_at: each.last_ok_at ?? null,
    failing_since: each.failing_since ?? null,
  };
}

export const severityOf = (text: string): Severity =>
  text === "warning" || text === "alarm" ? text : "info";
export const protocolOf = (text: string): Protocol =>
  text === "tcp" || text === "tls" ? text : "udp";

/** What is there now, as it is sent back; an empty secret keeps the one that it has. */
export function askedOf({ syslog, webhooks }: Outputs): Required<Asked> {
  return {
    syslog: syslog.map(({ id, host, port, protocol, min_severity, ca }) => ({
      id,
      host,
      port,
      ca,
      protocol: protocolOf(protocol),
      min_severity: severityOf(min_severity),
    })),
    webhooks: webhooks.map(({ id, url, min_severity, ca }) => ({
      id,
      url,
      ca,
      secret: "",
      min_severity: severityOf(min_severity),
    })),
  };
}

export function without(now: Outputs, id: string): Asked {
  const { syslog, webhooks } = askedOf(now);
  return {
    syslog: syslog.filter((each) => each.id !== id),
    webhooks: webhooks.filter((each) => each.id !== id),
  };
}

const put = <T extends { id: string }>(list: readonly T[], one: T): T[] =>
  one.id && list.some(({ id }) => id === one.id)
    ? list.map((each) => (each.id === one.id ? one : each))
    : [...list, one];

export function withSyslog(now: Outputs, one: Syslog): Asked {
  const asked = askedOf(now);
  return { ...asked, syslog: put(asked.syslog, one) };
}

export function withWebhook(now: Outputs, one: Webhook): Asked {
  const asked = askedOf(now);
  return { ...asked, webhooks: put(asked.webhooks, one) };
}
