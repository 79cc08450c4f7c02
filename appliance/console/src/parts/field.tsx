import {
  FormGroup,
  FormHelperText,
  FormSelect,
  FormSelectOption,
  HelperText,
  HelperTextItem,
  TextInput,
} from "@patternfly/react-core";
import { useId, type ComponentProps } from "react";

interface FieldProps {
  label: string;
  value: string;
  set: (value: string) => void;
  help?: string;
  isRequired?: boolean;
  type?: ComponentProps<typeof TextInput>["type"];
  autoComplete?: string;
  maxLength?: number;
}

/** One line to be typed. */
export function Field({ label, value, set, help, ...rest }: FieldProps) {
  const id = useId();
  return (
    <FormGroup label={label} fieldId={id} isRequired={rest.isRequired}>
      <TextInput
        id={id}
        value={value}
        autoComplete="off"
        aria-describedby={help ? `${id}-help` : undefined}
        onChange={(_, typed) => set(typed)}
        {...rest}
      />
      {help && (
        <FormHelperText>
          <HelperText id={`${id}-help`}>
            <HelperTextItem>{help}</HelperTextItem>
          </HelperText>
        </FormHelperText>
      )}
    </FormGroup>
  );
}

interface ChooseProps {
  label: string;
  value: string;
  set: (value: string) => void;
  options: readonly { value: string; label: string }[];
  /** What stands there while nothing is chosen; absent: something always is. */
  none?: string;
  isRequired?: boolean;
}

/** One of several. */
export function Choose({ label, value, set, options, none, isRequired }: ChooseProps) {
  const id = useId();
  return (
    <FormGroup label={label} fieldId={id} isRequired={isRequired}>
      <FormSelect id={id} value={value} onChange={(_, chosen) => set(chosen)}>
        {none !== undefined && <FormSelectOption value="" label={none} isPlaceholder />}
        {options.map((option) => (
          <FormSelectOption key={option.value} {...option} />
        ))}
      </FormSelect>
    </FormGroup>
  );
}
