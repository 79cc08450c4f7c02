/** What went wrong, in the words of the appliance (RFC 9457): cause and remedy. */
export class Failure extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly reason: string,
    readonly remedy: string,
  ) {
    super(reason);
    this.name = "Failure";
  }
}

const text = (value: unknown): string => (typeof value === "string" ? value : "");

/** Reads a problem; what isn't one (a proxy's page) is named by its status. */
export function failureOf(status: number, body: unknown): Failure {
  const problem = (typeof body === "object" && body !== null ? body : {}) as Record<
    string,
    unknown
  >;
  const code = text(problem["code"]);
  if (code === "not_signed_in") {
    return new Failure(status, code, "your session has ended", "log in again");
  }
  if (code) {
    const cause = text(problem["detail"]) || text(problem["title"]);
    return new Failure(status, code, cause, text(problem["remedy"]));
  }
  return new Failure(
    status,
    "not_an_appliance",
    `the answer (HTTP ${String(status)}) is not one of an appliance`,
    "look for a proxy between this browser and the appliance",
  );
}

export function unreachable(tookTooLong: boolean): Failure {
  return new Failure(
    0,
    "unreachable",
    tookTooLong ? "the appliance gave no answer in time" : "the appliance can't be reached",
    "check that it runs and that TCP to it passes; vSubnets run on meanwhile",
  );
}

export function failureFrom(error: unknown): Failure {
  if (error instanceof Failure) return error;
  const reason = error instanceof Error ? error.message : "an error of the console";
  return new Failure(0, "console", reason, "reload the page; if it stays, report it");
}
