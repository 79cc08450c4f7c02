import { Alert, Button, Card, CardBody, CardTitle, Form } from "@patternfly/react-core";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { answered, api } from "../../api/client";
import { useSession } from "../../app/session";
import { Copy } from "../../parts/copy";
import { Facts } from "../../parts/facts";
import { Field } from "../../parts/field";
import { Help } from "../../parts/help";
import { FailureAlert } from "../../parts/states";
import { Age, Foreign } from "../../parts/text";

/** What everybody does to the own account. */
export function Own() {
  const { session } = useSession();
  if (!session) return null;
  const isExternal = session.kind === "oidc";
  return (
    <div className="cairn-stack">
      <Card>
        <CardTitle component="h2">You</CardTitle>
        <CardBody>
          <Facts
            facts={[
              ["User", <Foreign key="user" text={session.user} />],
              ["Role", session.role],
              ["Logged in", <Age key="at" at={session.created_at} />],
              ["Session ends", <Age key="ends" at={session.ends_at} />],
              isExternal
                ? ["Logged in by", "the identity provider: it decides role and password"]
                : ["Code at login", session.totp ? "asked for" : "not asked for"],
            ]}
          />
        </CardBody>
      </Card>
      {!isExternal && (
        <div className="cairn-columns">
          <Password />
          {session.totp ? <TotpOff /> : <TotpOn />}
        </div>
      )}
    </div>
  );
}

function Password() {
  const [old, setOld] = useState("");
  const [wanted, setWanted] = useState("");
  const saving = useMutation({
    mutationFn: () =>
      answered(api.POST("/api/v1/session/password", { body: { old, new: wanted } })),
    onSuccess: () => {
      setOld("");
      setWanted("");
    },
  });
  return (
    <Card>
      <CardTitle component="h2">Your password</CardTitle>
      <CardBody>
        <Form
          onSubmit={(event) => {
            event.preventDefault();
            saving.mutate();
          }}
        >
          {saving.isError && <FailureAlert error={saving.error} title="It was not changed" />}
          {saving.isSuccess && (
            <Alert variant="success" isInline isLiveRegion component="p" title="It is changed">
              All your other sessions have ended.
            </Alert>
          )}
          <Field
            label="Password until now"
            type="password"
            autoComplete="current-password"
            value={old}
            set={setOld}
            isRequired
          />
          <Field
            label="New password"
            type="password"
            autoComplete="new-password"
            value={wanted}
            set={setWanted}
            isRequired
            help="12 characters or more"
          />
          <div>
            <Button
              type="submit"
              isDisabled={!old || !wanted || saving.isPending}
              isLoading={saving.isPending}
            >
              Change the password
            </Button>
          </div>
        </Form>
      </CardBody>
    </Card>
  );
}

/** A secret for an app, a code of it to prove that it is there, then the recovery codes, once. */
function TotpOn() {
  const { again } = useSession();
  const [code, setCode] = useState("");
  const offering = useMutation({
    mutationFn: () => answered(api.POST("/api/v1/session/totp")),
  });
  const confirming = useMutation({
    mutationFn: () =>
      answered(
        api.POST("/api/v1/session/totp/confirm", { body: { code: code.replace(/\s/g, "") } }),
      ),
  });
  const offered = offering.data;
  return (
    <Card>
      <CardTitle component="h2">
        A code beside the password <Help word="recovery code" />
      </CardTitle>
      <CardBody className="cairn-stack">
        {confirming.data ? (
          <>
            <Alert
              variant="success"
              isInline
              isLiveRegion
              component="p"
              title="A code is asked for at each login from now on"
            >
              Keep these recovery codes where the app is not: each opens once. They are shown only
              now.
            </Alert>
            <Copy text={confirming.data.recovery_codes.join("\n")} label="recovery codes" />
            <div>
              <Button onClick={again}>I have kept them</Button>
            </div>
          </>
        ) : (
          <>
            <p>
              An app on your telephone (TOTP, RFC 6238) shows a code that is asked for at each
              login.
            </p>
            {offering.isError && (
              <FailureAlert error={offering.error} title="No secret was drawn" />
            )}
            {!offered && (
              <div>
                <Button
                  variant="secondary"
                  isLoading={offering.isPending}
                  onClick={() => offering.mutate()}
                >
                  Set up an app
                </Button>
              </div>
            )}
            {offered && (
              <>
                <p>Type this secret into the app, or give it the address; it is shown only now.</p>
                <Copy text={offered.secret} label="secret" />
                <Copy text={offered.uri} label="address" />
                <Form
                  onSubmit={(event) => {
                    event.preventDefault();
                    confirming.mutate();
                  }}
                >
                  {confirming.isError && (
                    <FailureAlert error={confirming.error} title="The code was not taken" />
                  )}
                  <Field
                    label="Code that the app shows"
                    autoComplete="one-time-code"
                    value={code}
                    set={setCode}
                    isRequired
                  />
                  <div>
                    <Button
                      type="submit"
                      isDisabled={!code || confirming.isPending}
                      isLoading={confirming.isPending}
                    >
                      Confirm
                    </Button>
                  </div>
                </Form>
              </>
            )}
          </>
        )}
      </CardBody>
    </Card>
  );
}

function TotpOff() {
  const { again } = useSession();
  const [password, setPassword] = useState("");
  const removing = useMutation({
    mutationFn: () => answered(api.POST("/api/v1/session/totp/remove", { body: { password } })),
    onSuccess: again,
  });
  return (
    <Card>
      <CardTitle component="h2">A code beside the password</CardTitle>
      <CardBody>
        <Form
          onSubmit={(event) => {
            event.preventDefault();
            removing.mutate();
          }}
        >
          <p>
            A code of your app is asked for at each login. Without it the password alone opens your
            account, and the recovery codes are void.
          </p>
          {removing.isError && <FailureAlert error={removing.error} title="It stays" />}
          <Field
            label="Your password"
            type="password"
            autoComplete="current-password"
            value={password}
            set={setPassword}
            isRequired
          />
          <div>
            <Button
              type="submit"
              variant="danger"
              isDisabled={!password || removing.isPending}
              isLoading={removing.isPending}
            >
              Ask for no code any more
            </Button>
          </div>
        </Form>
      </CardBody>
    </Card>
  );
}
