export type Theme = "system" | "light" | "dark";

const KEY = "cairn-theme";
const DARK = window.matchMedia("(prefers-color-scheme: dark)");

export function storedTheme(): Theme {
  try {
    const stored = localStorage.getItem(KEY);
    return stored === "light" || stored === "dark" ? stored : "system";
  } catch {
    return "system"; // a browser that keeps nothing
  }
}

export function applyTheme(theme: Theme): void {
  const isDark = theme === "dark" || (theme === "system" && DARK.matches);
  document.documentElement.classList.toggle("pf-v6-theme-dark", isDark);
  document.documentElement.style.colorScheme = isDark ? "dark" : "light";
}

export function chooseTheme(theme: Theme): void {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // It holds until the page is closed.
  }
  applyTheme(theme);
}

export function followSystem(): void {
  applyTheme(storedTheme());
  DARK.addEventListener("change", () => applyTheme(storedTheme()));
}
