// The SDK's own test environments start the executables at WHISTLESTOP_EXECUTABLE and WHISTLESTOP_TEST_SERVER.
'use strict';
const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { before, test } = require('node:test');
const { TestWorkflowEnvironment } = require('@temporalio/testing');
const { Runtime, Worker } = require('@temporalio/worker');

before(() => {
  Runtime.install({ logger: { log() {}, trace() {}, debug() {}, info() {}, warn() {}, error: console.error } });
});

test('TestWorkflowEnvironment.createLocal with our executable', async () => {
  const environment = await TestWorkflowEnvironment.createLocal({
    server: {
      executable: { type: 'existing-path', path: process.env.WHISTLESTOP_EXECUTABLE },
      log: { format: 'pretty', level: 'error' },
      searchAttributes: [],
      namespace: 'sidings',
    },
  });
  try {
    const taskQueue = `local-${randomUUID()}`;
    const worker = await Worker.create({
      connection: environment.nativeConnection,
      namespace: environment.namespace,
      taskQueue,
      workflowsPath: require.resolve('./workflows.ts'),
    });
    const coupled = await worker.runUntil(
      environment.client.workflow.execute('couple', { taskQueue, workflowId: taskQueue, args: ['tender'] })
    );
    assert.equal(coupled, 'tender coupled');
    assert.equal(environment.namespace, 'sidings');
  } finally {
    await environment.teardown();
  }
});

test('TestWorkflowEnvironment.createTimeSkipping with our test server', async () => {
  const environment = await TestWorkflowEnvironment.createTimeSkipping({
    server: { executable: { type: 'existing-path', path: process.env.WHISTLESTOP_TEST_SERVER } },
  });
  try {
    const taskQueue = `skipping-${randomUUID()}`;
    const worker = await Worker.create({
      connection: environment.nativeConnection,
      taskQueue,
      workflowsPath: require.resolve('./workflows.ts'),
    });
    const before = await environment.currentTimeMs();
    const woken = await worker.runUntil(
      environment.client.workflow.execute('longNap', { taskQueue, workflowId: taskQueue })
    );
    assert.equal(woken, 'rested');
    assert((await environment.currentTimeMs()) - before >= 30 * 24 * 3600 * 1000);
  } finally {
    await environment.teardown();
  }
});
