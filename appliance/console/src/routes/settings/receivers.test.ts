import { describe, expect, it } from "vitest";
import { receiversOf, without, withSyslog, withWebhook } from "./receivers";

const told = { last_ok_at: null, failing_since: null, last_error: "", ca: "", skipped: 0 };
const NOW = {
  syslog: [
    { ...told, id: "s1", host: "fd00::1", port: 514, protocol: "udp", min_severity: "info" },
  ],
  webhooks: [{ ...told, id: "w1", url: "https://hook/", min_severity: "alarm" }],
};

describe("receivers", () => {
  it("are one list", () =>
    expect(receiversOf(NOW).map(({ id, where }) => [id, where])).toEqual([
      ["s1", "udp://[fd00::1]:514"],
      ["w1", "https://hook/"],
    ]));
  it("keep the others, and their secrets, where one goes", () =>
    expect(without(NOW, "s1")).toEqual({
      syslog: [],
      webhooks: [{ id: "w1", url: "https://hook/", min_severity: "alarm", secret: "", ca: "" }],
    }));
  it("are added where they are new and replaced where they are not", () => {
    const one = { id: "", host: "b", port: 1, protocol: "tls", min_severity: "info", ca: "" };
    const added = withSyslog(NOW, { ...one, protocol: "tls", min_severity: "info" });
    expect(added.syslog?.map(({ host }) => host)).toEqual(["fd00::1", "b"]);
    const hook = { url: "https://other/", secret: "", ca: "", min_severity: "info" as const };
    expect(withWebhook(NOW, { ...hook, id: "w1" }).webhooks?.map(({ url }) => url)).toEqual([
      "https://other/",
    ]);
  });
});
