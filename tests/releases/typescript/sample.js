// Run workflows with whatever release of the TypeScript SDK is installed beside this file, against the server at the
// given address. Every step prints `ok NAME`, `not ok NAME: why` or `skip NAME: not in this release`.
'use strict';
const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const sdk = require('@temporalio/client');
const { Context } = require('@temporalio/activity');
const { DefaultLogger, NativeConnection, Runtime, Worker } = require('@temporalio/worker');
const wf = require('@temporalio/workflow');

const address = process.argv[2];
const taskQueue = `release-${randomUUID()}`;
const workflowsPath = require.resolve('./workflows.js');
const activities = {
  async greet(name) {
    const { attempt } = Context.current().info;
    if (attempt < 3) throw new Error(`attempt ${attempt}`);
    return `hello ${name}`;
  },
  async shout(name) {
    return name.toUpperCase();
  },
  async hold() {
    for (;;) {
      Context.current().heartbeat();
      await Context.current().sleep(100);
    }
  },
};

const options = (...args) => ({ taskQueue, args, workflowId: `release-${randomUUID()}` });

async function eventually(look) {
  for (let tries = 0; tries < 200; tries++) {
    const found = await look();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return assert.fail('it did not happen within 20 seconds');
}

async function rejected(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  return assert.fail('it did not fail');
}

const steps = {
  async activity_and_local_activity({ client }) {
    assert.equal(await client.execute('greeting', options('you')), 'HELLO YOU');
  },
  async signal_and_query({ client }) {
    const handle = await client.start('counter', options());
    await handle.signal('add', 2);
    await handle.signal('add', 3);
    assert.equal(await handle.query('current'), 5);
    await handle.signal('finish');
    assert.equal(await handle.result(), 5);
    assert.equal(await handle.query('current'), 5);
    assert.equal((await handle.describe()).status.name, 'COMPLETED');
  },
  async signal_with_start({ client }) {
    const handle = await client.signalWithStart('counter', { ...options(), signal: 'add', signalArgs: [4] });
    await handle.signal('finish');
    assert.equal(await handle.result(), 4);
  },
  async update({ client }) {
    if (!wf.defineUpdate) return 'skip';
    const handle = await client.start('counter', options());
    await handle.signal('add', 2);
    assert.equal(await handle.executeUpdate('multiply', { args: [3] }), 6);
    const error = await rejected(handle.executeUpdate('multiply', { args: [0] }));
    assert.match(error.cause.message, /not by zero/);
    await handle.signal('finish');
    assert.equal(await handle.result(), 6);
  },
  async child_and_external_signal({ client }) {
    assert.equal(await client.execute('family', options()), 5);
  },
  async timer_and_continue_as_new({ client }) {
    assert.equal(await client.execute('countdown', options(2)), 'lift-off');
  },
  async failure({ client }) {
    const { cause } = await rejected(client.execute('failing', options()));
    assert.deepEqual([cause.message, cause.type, cause.details], ['no luck', 'Luckless', [{ at: 7 }]]);
  },
  async cancellation({ client }) {
    const handle = await client.start('holding', options());
    await eventually(async () => (await handle.describe()).raw.pendingActivities?.[0]?.lastStartedTime);
    await handle.cancel();
    const { cause } = await rejected(handle.result());
    assert.equal(cause.name, 'CancelledFailure');
  },
  async id_in_use_and_termination({ client }) {
    const started = options();
    const handle = await client.start('counter', started);
    const error = await rejected(client.start('counter', started));
    assert.equal(error.name, 'WorkflowExecutionAlreadyStartedError');
    await handle.terminate('enough');
    const { cause } = await rejected(handle.result());
    assert.equal(cause.name, 'TerminatedFailure');
  },
  async list_and_replay({ client, connection }) {
    const started = options('you');
    const handle = await client.start('greeting', started);
    await handle.result();
    const query = `WorkflowId = '${started.workflowId}'`;
    await eventually(async () => {
      const { executions } = await connection.workflowService.listWorkflowExecutions({ namespace: 'default', query });
      return executions.length === 1;
    });
    const { history } = await connection.workflowService.getWorkflowExecutionHistory({
      namespace: 'default',
      execution: { workflowId: started.workflowId },
    });
    await Worker.runReplayHistory({ workflowsPath }, history, started.workflowId);
  },
  async schedule({ connection }) {
    if (!sdk.ScheduleClient) return 'skip';
    const schedules = new sdk.ScheduleClient({ connection });
    const handle = await schedules.create({
      scheduleId: `release-${randomUUID()}`,
      spec: { intervals: [{ every: '1h' }] },
      action: { type: 'startWorkflow', workflowType: 'countdown', args: [0], taskQueue },
    });
    await handle.trigger();
    const [ran] = await eventually(async () => {
      const { info } = await handle.describe();
      return info.recentActions.length && info.recentActions;
    });
    const client = new sdk.WorkflowClient({ connection });
    assert.equal(await client.getHandle(ran.action.workflow.workflowId).result(), 'lift-off');
    await handle.pause('rest');
    const { state } = await handle.describe();
    assert.deepEqual([state.paused, state.note], [true, 'rest']);
    await handle.delete();
    return undefined;
  },
};

async function main() {
  Runtime.install({ logger: new DefaultLogger('ERROR') });
  const connection = await sdk.Connection.connect({ address });
  const client = new sdk.WorkflowClient({ connection });
  const worker = await Worker.create({
    connection: await NativeConnection.connect({ address }),
    taskQueue,
    workflowsPath,
    activities,
  });
  const running = worker.run();
  let failed = 0;
  for (const [name, step] of Object.entries(steps)) {
    try {
      const limit = new Promise((_, reject) => setTimeout(() => reject(new Error('60 seconds were not enough')), 60000).unref());
      const outcome = await Promise.race([step({ client, connection }), limit]);
      console.log(outcome === 'skip' ? `skip ${name}: not in this release` : `ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`not ok ${name}: ${error}`);
      console.error(error);
    }
  }
  worker.shutdown();
  await running;
  await connection.close();
  return failed;
}

main().then(
  (failed) => process.exit(failed ? 1 : 0),
  (error) => {
    console.error(error);
    process.exit(1);
  }
);
