// The official TypeScript SDK against the server at WHISTLESTOP_ADDRESS: one worker, one test a capability.
'use strict';
const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { after, before, describe, test } = require('node:test');
const {
  Client, Connection, ScheduleOverlapPolicy, WithStartWorkflowOperation, WorkflowFailedError,
  WorkflowExecutionAlreadyStartedError, WorkflowUpdateFailedError,
} = require('@temporalio/client');
const { SearchAttributeType, defineSearchAttributeKey } = require('@temporalio/common');
const { NativeConnection, Runtime, Worker } = require('@temporalio/worker');
const { WorkflowRunOperationHandler, startWorkflow } = require('@temporalio/nexus');
const nexus = require('nexus-rpc');
const activities = require('./activities');
const { yard } = require('./service');

const address = process.env.WHISTLESTOP_ADDRESS;
const taskQueue = `typescript-${randomUUID()}`;
const endpoint = taskQueue;
const KEYWORD = defineSearchAttributeKey('TypescriptKeyword', SearchAttributeType.KEYWORD);
let client, connection, nativeConnection, running, worker;

const yardHandler = nexus.serviceHandler(yard, {
  echo: async (context, name) => `${name}!`,
  shunt: new WorkflowRunOperationHandler((context, name) =>
    startWorkflow(context, 'couple', { args: [name], workflowId: `shunt-${randomUUID()}`, taskQueue })
  ),
});

before(async () => {
  Runtime.install({ logger: { log() {}, trace() {}, debug() {}, info() {}, warn() {}, error: console.error } });
  connection = await Connection.connect({ address });
  client = new Client({ connection });
  await connection.operatorService.addSearchAttributes({ namespace: 'default', searchAttributes: { TypescriptKeyword: 2 } });
  await connection.operatorService.createNexusEndpoint({
    spec: { name: endpoint, target: { worker: { namespace: 'default', taskQueue } } },
  });
  nativeConnection = await NativeConnection.connect({ address });
  worker = await Worker.create({
    connection: nativeConnection,
    taskQueue,
    workflowsPath: require.resolve('./workflows.ts'),
    activities,
    nexusServices: [yardHandler],
  });
  running = worker.run();
});

after(async () => {
  worker.shutdown();
  await running;
  await connection.close();
  await nativeConnection.close();
});

const options = (...args) => ({ taskQueue, args, workflowId: `typescript-${randomUUID()}` });

/** Array.fromAsync, which Node 20 has not. */
async function all(iterable) {
  const found = [];
  for await (const each of iterable) found.push(each);
  return found;
}

async function eventually(look) {
  for (let tries = 0; tries < 100; tries++) {
    const seen = await look();
    if (seen) return seen;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return assert.fail('it never came to be');
}

describe('the TypeScript SDK', { concurrency: true }, () => {
  test('activities, a local activity, signals, queries, updates, children and timers in one workflow', async () => {
    const handle = await client.workflow.start('train', options('coal'));
    await handle.signal('stopAt', 'Abercynon');
    await handle.signal('stopAt', 'Merthyr');
    assert.equal(await handle.executeUpdate('addWagon', { args: ['first'] }), 1);
    const second = await handle.startUpdate('addWagon', { args: ['second'], waitForStage: 'ACCEPTED' });
    assert.equal(await second.result(), 2);
    await assert.rejects(handle.executeUpdate('addWagon', { args: [''] }), WorkflowUpdateFailedError);
    assert.deepEqual(await handle.query('stops'), ['Abercynon', 'Merthyr']);
    await handle.signal('depart');
    assert.deepEqual(await handle.result(), {
      loaded: 'coal loaded', weight: 4, stops: ['Abercynon', 'Merthyr'], wagons: ['first coupled', 'second coupled'],
    });
    assert.deepEqual(await handle.query('stops'), ['Abercynon', 'Merthyr']); // replayed, though it is closed
    assert.equal((await handle.describe()).status.name, 'COMPLETED');
  });

  test('failures and retries of activities and children arrive as they left', async () => {
    assert.deepEqual(await client.workflow.execute('troubles', options()), [
      'attempt 3',
      'broken: Broken: no coal NON_RETRYABLE_FAILURE',
      'derail: Derailed: off the rails',
      'the timer was cancelled',
    ]);
  });

  test('a failed workflow tells why', async () => {
    const failing = client.workflow.execute('derail', options());
    await assert.rejects(failing, (error) => {
      assert(error instanceof WorkflowFailedError);
      assert.equal(error.cause.type, 'Derailed');
      assert.deepEqual(error.cause.details, [{ at: 'km 7' }]);
      return true;
    });
  });

  test('a cancellation reaches the heartbeating activity', async () => {
    const handle = await client.workflow.start('cancelled', options());
    await eventually(async () => (await handle.describe()).raw.pendingActivities?.[0]?.lastStartedTime);
    await handle.cancel();
    await assert.rejects(handle.result(), (error) => error.cause.message === 'cleaned up: nothing loaded');
  });

  test('an activity is completed from outside by its token', async () => {
    const handle = await client.workflow.start('outsourced', options());
    await client.activity.complete(await activities.token, 'by hand');
    assert.equal(await handle.result(), 'by hand');
  });

  test('continue-as-new is followed to the end', async () => {
    assert.equal(await client.workflow.execute('counted', options(2)), 3);
  });

  test('a parent signals its child and an external workflow', async () => {
    assert.deepEqual(await client.workflow.execute('dispatcher', options()), ['Pontypridd']);
  });

  test('memo, search attributes, a patch; listed, counted, replayed', async () => {
    const started = options();
    const handle = await client.workflow.start('labelled', { ...started, memo: { note: 'sturdy' } });
    assert.equal(await handle.result(), 'standard gauge');
    const query = `TypescriptKeyword = 'glass' AND WorkflowId = '${started.workflowId}' AND TemporalChangeVersion = 'gauge'`;
    const [listed] = await eventually(async () => {
      const found = await all(client.workflow.list({ query }));
      return found.length && found;
    });
    assert.deepEqual(listed.memo, { note: 'fragile' });
    assert.equal(listed.typedSearchAttributes.get(KEYWORD), 'glass');
    assert.equal((await client.workflow.count(query)).count, 1);
    await Worker.runReplayHistory(
      { workflowsPath: require.resolve('./workflows.ts') }, await handle.fetchHistory(), started.workflowId
    );
  });

  test('signal-with-start, update-with-start, a workflow id in use, terminate', async () => {
    const started = options('slate');
    const handle = await client.workflow.signalWithStart('train', { ...started, signal: 'stopAt', signalArgs: ['Neath'] });
    const startWorkflowOperation = new WithStartWorkflowOperation('train', {
      ...started, workflowIdConflictPolicy: 'USE_EXISTING',
    });
    const added = await client.workflow.executeUpdateWithStart('addWagon', { args: ['w'], startWorkflowOperation });
    assert.equal(added, 1);
    assert.deepEqual(await handle.query('stops'), ['Neath']);
    await assert.rejects(client.workflow.start('train', started), WorkflowExecutionAlreadyStartedError);
    await handle.terminate('end of the line');
    await assert.rejects(handle.result(), WorkflowFailedError);
  });

  test('a schedule starts a workflow, is paused, updated, listed and deleted', async () => {
    const scheduleId = `typescript-${randomUUID()}`;
    const handle = await client.schedule.create({
      scheduleId,
      spec: { calendars: [{ hour: 3, dayOfWeek: ['MONDAY', 'WEDNESDAY'], comment: 'early' }], timezone: 'Europe/London' },
      action: { type: 'startWorkflow', workflowType: 'couple', args: ['wagon'], taskQueue },
      policies: { overlap: ScheduleOverlapPolicy.BUFFER_ALL },
      memo: { line: 'branch' },
      state: { note: 'new' },
    });
    await handle.trigger();
    const { info } = await eventually(async () => {
      const described = await handle.describe();
      return described.info.recentActions.length && described;
    });
    const { workflow } = info.recentActions[0].action;
    assert.equal(await client.workflow.getHandle(workflow.workflowId).result(), 'wagon coupled');
    await handle.pause('leaves on the line');
    await handle.update((previous) => ({ ...previous, spec: { intervals: [{ every: '2h', offset: '5m' }] } }));
    await handle.backfill({ start: new Date('2024-05-01T00:00:00Z'), end: new Date('2024-05-01T03:00:00Z'), overlap: 'ALLOW_ALL' });
    const described = await eventually(async () => {
      const now = await handle.describe();
      return now.info.numActionsTaken >= 3 && now;
    });
    assert.equal(described.state.paused, true);
    assert.equal(described.state.note, 'leaves on the line');
    assert.deepEqual(described.memo, { line: 'branch' });
    assert.deepEqual(described.spec.intervals, [{ every: 7200000, offset: 300000 }]);
    await eventually(async () => {
      const found = await all(client.schedule.list());
      return found.some((each) => each.scheduleId === scheduleId && each.state.paused);
    });
    await handle.delete();
    await assert.rejects(handle.describe(), { name: 'ScheduleNotFoundError' });
  });

  test('Nexus operations, one answered at once and one that is a workflow', async () => {
    assert.deepEqual(await client.workflow.execute('caller', options(endpoint, 'truck')), ['truck!', 'truck coupled']);
  });
});
