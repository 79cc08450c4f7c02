import hooks from "eslint-plugin-react-hooks";
import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["node_modules", "src/api/schema.d.ts"] },
  ...tseslint.configs.strict,
  {
    plugins: { "react-hooks": hooks },
    rules: {
      ...hooks.configs.recommended.rules,
      "no-restricted-properties": ["error", { property: "dangerouslySetInnerHTML" }],
      "no-eval": "error",
      eqeqeq: "error",
      "@typescript-eslint/no-confusing-void-expression": "off",
    },
  },
);
