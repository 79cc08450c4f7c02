const AGAIN_AFTER_MS = [250, 1_000, 3_000];

/** Loads what a page is made of, again where it comes to nothing: a browser drops all that is under
 * way when its machine's network changes. */
export async function patiently<T>(load: () => Promise<T>): Promise<T> {
  for (const wait of AGAIN_AFTER_MS) {
    try {
      return await load();
    } catch {
      await new Promise((done) => setTimeout(done, wait * (0.5 + Math.random() / 2)));
    }
  }
  return load();
}
