// The workflows of sample.js, bundled by the SDK. Nothing that release 1.0.0 lacks is used without a look.
'use strict';
const wf = require('@temporalio/workflow');

const { greet, hold } = wf.proxyActivities({
  startToCloseTimeout: '30s',
  heartbeatTimeout: '5s',
  retry: { initialInterval: '10ms' },
});
const { shout } = wf.proxyLocalActivities({ startToCloseTimeout: '30s' });

const add = wf.defineSignal('add');
const finish = wf.defineSignal('finish');
const current = wf.defineQuery('current');

exports.greeting = async (name) => await shout(await greet(name));

exports.counter = async () => {
  let total = 0;
  let done = false;
  wf.setHandler(add, (amount) => void (total += amount));
  wf.setHandler(finish, () => void (done = true));
  wf.setHandler(current, () => total);
  if (wf.defineUpdate)
    wf.setHandler(
      wf.defineUpdate('multiply'),
      async (factor) => {
        await wf.sleep(10);
        total *= factor;
        return total;
      },
      {
        validator: (factor) => {
          if (factor === 0) throw new Error('not by zero');
        },
      }
    );
  await wf.condition(() => done);
  return total;
};

exports.family = async () => {
  const child = await wf.startChild('counter', { workflowId: `${wf.workflowInfo().workflowId}-child` });
  await child.signal(add, 5);
  await wf.getExternalWorkflowHandle(child.workflowId).signal(finish);
  return await child.result();
};

exports.countdown = async (left) => {
  await wf.sleep(10);
  if (left > 0) await wf.continueAsNew(left - 1);
  return 'lift-off';
};

exports.failing = async () => {
  throw wf.ApplicationFailure.nonRetryable('no luck', 'Luckless', { at: 7 });
};

exports.holding = async () => await hold();
