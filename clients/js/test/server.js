// A server of a test: `brigade serve` on a free port and a job file of its own.
import { spawn, execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const PROGRAM = process.env.BRIGADE_PROGRAM ?? new URL('../../../target/debug/brigade', import.meta.url).pathname;

export class Server {
  static async start() {
    const server = new Server();
    server.directory = mkdtempSync(join(tmpdir(), 'brigade-js-'));
    await server.#spawn('127.0.0.1:0');
    return server;
  }

  async #spawn(listen) {
    this.child = spawn(PROGRAM, ['serve', '--listen', listen, '--auth', 'none'], {
      env: this.environment(),
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.ended = new Promise((resolve) => this.child.once('exit', resolve));
    for await (const line of createInterface({ input: this.child.stdout })) {
      const found = /http:\/\/127\.0\.0\.1:\d+/.exec(line);
      if (found) {
        [this.url] = found;
        return;
      }
    }
    throw new Error('the server did not start');
  }

  environment() {
    return { ...process.env, BRIGADE_URL: `sqlite:${join(this.directory, 'jobs.db')}` };
  }

  /** Runs the command on the same jobs; what it printed. */
  run(...args) {
    return execFileSync(PROGRAM, args, { env: this.environment(), encoding: 'utf8' }).trim();
  }

  /** Kills it and starts it again at the same address. */
  async restart() {
    this.child.kill('SIGKILL');
    await this.ended;
    await this.#spawn(new URL(this.url).host);
  }

  async stop() {
    this.child.kill('SIGTERM');
    await this.ended;
    rmSync(this.directory, { recursive: true, force: true });
  }
}
