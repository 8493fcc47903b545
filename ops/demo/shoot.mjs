// Bundles page.jsx and takes its picture in both themes: node shoot.mjs SEEN.json DIRECTORY
import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { execSync } from 'node:child_process';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';

const [seen, directory] = process.argv.slice(2);
await build({
  entryPoints: ['page.jsx'], bundle: true, outfile: 'page.js', jsx: 'automatic', format: 'iife', logLevel: 'error',
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  loader: { '.svg': 'text', '.png': 'dataurl', '.woff': 'empty', '.woff2': 'dataurl', '.ttf': 'empty' },
});
const data = readFileSync(seen, 'utf8').replaceAll('<', '\\u003c');
const script = `<script>window.seen = ${data}; window.theme = location.hash.slice(1)</script>`;
writeFileSync('page.html', `<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="page.css"><body style="margin:0"><div id="root"></div>${script}<script src="page.js"></script>`);
const executablePath = execSync('command -v chromium').toString().trim();
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
for (const theme of ['light', 'dark']) {
  const page = await browser.newPage({ viewport: { width: 1600, height: 1000 } });
  page.on('pageerror', (error) => console.error('page:', error.message));
  await page.goto(`${pathToFileURL('page.html')}#${theme}`);
  await page.waitForSelector('#done', { state: 'attached' });
  await page.waitForTimeout(1500);
  writeFileSync(`${directory}/dashboard-${theme}.png`, await page.screenshot({ fullPage: true }));
  await page.close();
}
await browser.close();
