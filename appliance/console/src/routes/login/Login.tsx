import {
  ActionGroup,
  Button,
  Form,
  FormGroup,
  FormHelperText,
  HelperText,
  HelperTextItem,
  TextInput,
  Title,
} from "@patternfly/react-core";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import logo from "../../cairn.svg";
import { failureFrom } from "../../api/failure";
import { useSession } from "../../app/session";
import { FailureAlert } from "../../parts/states";
import { ByProvider } from "./Oidc";

/** Name and password, then a code where the user has TOTP; `isInside`: over a page. */
export function Login({
  name: known = "",
  isInside = false,
}: {
  name?: string;
  isInside?: boolean;
}) {
  const { login } = useSession();
  const [name, setName] = useState(known);
  const [password, setPassword] = useState("");
  const [code, setCode] = useState("");
  const doing = useMutation({ mutationFn: () => login(name, password, code.replace(/\s/g, "")) });
  const failed = doing.isError ? failureFrom(doing.error).code : "";
  const [asksCode, setAsksCode] = useState(false);
  if (failed === "totp_required" && !asksCode) setAsksCode(true);
  const form = (
    <Form
      onSubmit={(event) => {
        event.preventDefault();
        doing.mutate();
      }}
    >
      {doing.isError && failed !== "totp_required" && (
        <FailureAlert error={doing.error} title="Not logged in" />
      )}
      <FormGroup label="User" isRequired fieldId="login-name">
        <TextInput
          id="login-name"
          value={name}
          isRequired
          autoComplete="username"
          autoFocus={!known}
          maxLength={64}
          onChange={(_, value) => setName(value)}
        />
      </FormGroup>
      <FormGroup label="Password" isRequired fieldId="login-password">
        <TextInput
          id="login-password"
          type="password"
          value={password}
          isRequired
          autoComplete="current-password"
          autoFocus={Boolean(known)}
          maxLength={1024}
          onChange={(_, value) => setPassword(value)}
        />
      </FormGroup>
      {asksCode && (
        <FormGroup label="Code" isRequired fieldId="login-code">
          <TextInput
            id="login-code"
            value={code}
            isRequired
            autoComplete="one-time-code"
            autoFocus
            maxLength={64}
            onChange={(_, value) => setCode(value)}
          />
          <FormHelperText>
            <HelperText>
              <HelperTextItem>Of your authenticator, or a recovery code</HelperTextItem>
            </HelperText>
          </FormHelperText>
        </FormGroup>
      )}
      <ActionGroup>
        <Button
          type="submit"
          isBlock
          isLoading={doing.isPending}
          isDisabled={doing.isPending || !name || !password || (asksCode && !code)}
        >
          Log in
        </Button>
      </ActionGroup>
    </Form>
  );
  if (isInside) {
    return (
      <div className="cairn-stack">
        {form}
        <ByProvider isInside />
      </div>
    );
  }
  return (
    <div className="cairn-login cairn-stack">
      <span className="cairn-brand">
        <img src={logo} alt="" /> Cairn
      </span>
      <Title headingLevel="h1">Log in to this appliance</Title>
      {form}
      <ByProvider isInside={false} />
    </div>
  );
}
