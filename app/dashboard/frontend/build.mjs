// Builds the frontend into ../dist: files whose names hold a hash of their content, and manifest.json, which says under
// which file each name is to be found. Nothing is done when the sources are those of the last build.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const dist = resolve(here, '../dist');

/** The hash of everything that a build depends on. */
async function stampOfSources() {
  const files = (await readdir(join(here, 'src'), { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name));
  const hash = createHash('sha256');
  for (const file of [...files.sort(), ...['build.mjs', 'package-lock.json', 'tsconfig.json'].map((name) => join(here, name))]) {
    hash.update(file.slice(here.length)).update('\0').update(await readFile(file));
  }
  return hash.digest('hex');
}

/** Libraries bring fonts inside their style sheets; pages use the system's, and the policy allows no others. */
const withoutFonts = {
  name: 'without-fonts',
  setup(bundling) {
    bundling.onLoad({ filter: /node_modules.*\.css$/ }, async ({ path }) => ({
      contents: (await readFile(path, 'utf8')).replace(/@font-face\s*\{[^}]*\}/g, ''),
      loader: 'css',
    }));
  },
};

const options = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  target: 'es2023',
  outdir: dist,
  entryNames: '[name].[hash]',
  chunkNames: 'chunk.[hash]',
  assetNames: '[name].[hash]',
  loader: { '.graphql': 'text', '.svg': 'dataurl' },
  define: { 'process.env.NODE_ENV': '"production"' },
  legalComments: 'eof',
  metafile: true,
  logLevel: 'warning',
  plugins: [withoutFonts],
};

const stamp = await stampOfSources();
const stampFile = join(dist, 'stamp');
if (existsSync(join(dist, 'manifest.json')) && existsSync(stampFile) && (await readFile(stampFile, 'utf8')) === stamp) {
  process.exit(0);
}
const { build } = await import('esbuild');
await rm(dist, { recursive: true, force: true });
await mkdir(dist, { recursive: true });
const results = await Promise.all([
  build({ ...options, entryPoints: ['src/theme.ts'], format: 'iife' }),
  build({ ...options, entryPoints: ['src/dashboard.ts'], format: 'esm', splitting: true }),
  build({ ...options, entryPoints: ['src/playground.tsx', 'src/docs.ts'], format: 'esm' }),
]);
const manifest = {};
for (const { metafile } of results) {
  for (const path of Object.keys(metafile.outputs)) {
    const file = basename(path);
    const kind = file.slice(file.lastIndexOf('.'));
    const name = file.startsWith('chunk.') ? file : file.slice(0, file.indexOf('.')) + kind;
    manifest[name] = file;
  }
}
await writeFile(join(dist, 'manifest.json'), `${JSON.stringify(manifest, Object.keys(manifest).sort(), 2)}\n`);
await writeFile(stampFile, stamp);
