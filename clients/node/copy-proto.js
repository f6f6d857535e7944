// Takes the contract of this repository into the package; it is kept nowhere else.
import { cpSync, readdirSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
rmSync(here('proto'), { recursive: true, force: true });
for (const file of readdirSync(here('../../proto/kernex/v1'))) {
  if (file.endsWith('.proto')) cpSync(here(`../../proto/kernex/v1/${file}`), here(`proto/kernex/v1/${file}`));
}
