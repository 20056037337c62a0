// The SDK's own test environment starts the executable at WHISTLESTOP_EXECUTABLE as its development server.
'use strict';
const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { test } = require('node:test');
const { TestWorkflowEnvironment } = require('@temporalio/testing');
const { Runtime, Worker } = require('@temporalio/worker');

test('TestWorkflowEnvironment.createLocal with our executable', async () => {
  Runtime.install({ logger: { log() {}, trace() {}, debug() {}, info() {}, warn() {}, error: console.error } });
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
