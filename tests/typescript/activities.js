// The activities of the sample.
'use strict';
const { ApplicationFailure } = require('@temporalio/common');
const { CompleteAsyncError, Context, activityInfo, heartbeat, sleep } = require('@temporalio/activity');

exports.load = async (cargo) => `${cargo} loaded`;
exports.weigh = async (cargo) => cargo.length;

/** Fails twice, then tells which attempt did it. */
exports.flaky = async () => {
  const { attempt } = activityInfo();
  if (attempt < 3) throw new Error('not yet');
  return `attempt ${attempt}`;
};

exports.broken = async () => {
  throw ApplicationFailure.nonRetryable('no coal', 'Broken');
};

exports.guarded = async () => {
  for (;;) {
    heartbeat('here');
    await sleep(20);
  }
};

/** Left to be completed from outside: its token goes to whoever asked. */
exports.handedOver = async () => {
  handOver(Context.current().info.taskToken);
  throw new CompleteAsyncError();
};

let handOver;
exports.token = new Promise((resolve) => (handOver = resolve));
