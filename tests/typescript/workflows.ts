// The workflows of the sample: a goods train, the wagons that it couples, and a yard that others call through Nexus.
import {
  ActivityFailure,
  CancellationScope,
  ChildWorkflowFailure,
  condition,
  continueAsNew,
  createNexusServiceClient,
  defineQuery,
  defineSignal,
  defineUpdate,
  executeChild,
  getExternalWorkflowHandle,
  isCancellation,
  patched,
  proxyActivities,
  proxyLocalActivities,
  setHandler,
  sleep,
  startChild,
  upsertMemo,
  upsertSearchAttributes,
  workflowInfo,
  ApplicationFailure,
} from '@temporalio/workflow';
import type * as activities from './activities';
import { yard } from './service';

const { load, flaky, broken, guarded, handedOver } = proxyActivities<typeof activities>({
  startToCloseTimeout: '30s',
  heartbeatTimeout: '5s',
  retry: { initialInterval: '10ms', maximumAttempts: 5 },
});
const { weigh } = proxyLocalActivities<typeof activities>({ startToCloseTimeout: '10s' });

export const stopAt = defineSignal<[string]>('stopAt');
export const depart = defineSignal('depart');
export const stops = defineQuery<string[]>('stops');
export const addWagon = defineUpdate<number, [string]>('addWagon');

/** Waits for its departure; meanwhile takes signals, queries and updates. */
export async function train(cargo: string): Promise<{ loaded: string; weight: number; stops: string[]; wagons: string[] }> {
  const places: string[] = [];
  const wagons: string[] = [];
  let departed = false;
  setHandler(stopAt, (place) => void places.push(place));
  setHandler(depart, () => void (departed = true));
  setHandler(stops, () => places);
  setHandler(
    addWagon,
    async (wagon) => {
      await sleep(1);
      wagons.push(await executeChild(couple, { args: [wagon] }));
      return wagons.length;
    },
    {
      validator: (wagon) => {
        if (wagon === '') throw new Error('a wagon needs a name');
      },
    }
  );
  const loaded = await load(cargo);
  const weight = await weigh(cargo);
  await condition(() => departed);
  return { loaded, weight, stops: places, wagons };
}

export async function couple(wagon: string): Promise<string> {
  await sleep('10ms');
  return `${wagon} coupled`;
}

export async function longNap(): Promise<string> {
  await sleep('30 days');
  return 'rested';
}

export async function derail(): Promise<void> {
  throw ApplicationFailure.nonRetryable('off the rails', 'Derailed', { at: 'km 7' });
}

/** What goes wrong in activities and children, and how it looks from here. */
export async function troubles(): Promise<string[]> {
  const seen: string[] = [];
  seen.push(await flaky());
  try {
    await broken();
  } catch (failure) {
    if (failure instanceof ActivityFailure && failure.cause instanceof ApplicationFailure)
      seen.push(`${failure.activityType}: ${failure.cause.type}: ${failure.cause.message} ${failure.retryState}`);
  }
  try {
    await executeChild(derail);
  } catch (failure) {
    if (failure instanceof ChildWorkflowFailure && failure.cause instanceof ApplicationFailure)
      seen.push(`${failure.workflowType}: ${failure.cause.type}: ${failure.cause.message}`);
  }
  try {
    await CancellationScope.withTimeout('50ms', () => sleep('1h'));
  } catch (failure) {
    if (isCancellation(failure)) seen.push('the timer was cancelled');
  }
  return seen;
}

/** Its activity heartbeats until it hears of the cancellation, which the workflow outlives to clean up. */
export async function cancelled(): Promise<string> {
  try {
    return await guarded();
  } catch (failure) {
    if (!isCancellation(failure)) throw failure;
    const swept = await CancellationScope.nonCancellable(() => load('nothing'));
    throw ApplicationFailure.nonRetryable(`cleaned up: ${swept}`, 'Swept');
  }
}

export async function outsourced(): Promise<string> {
  return await handedOver();
}

export async function counted(left: number, sum = 0): Promise<number> {
  if (left > 0) await continueAsNew<typeof counted>(left - 1, sum + left);
  return sum;
}

/** Signals a child that it started, and waits for what it makes of it. */
export async function dispatcher(): Promise<string[]> {
  const child = await startChild(train, { args: ['coal'], workflowId: `${workflowInfo().workflowId}-train` });
  await child.signal(stopAt, 'Pontypridd');
  await getExternalWorkflowHandle(child.workflowId).signal(depart);
  return (await child.result()).stops;
}

export async function labelled(): Promise<string> {
  upsertMemo({ note: 'fragile' });
  upsertSearchAttributes({ TypescriptKeyword: ['glass'] });
  return patched('gauge') ? 'standard gauge' : 'broad gauge';
}

export async function caller(endpoint: string, name: string): Promise<string[]> {
  const client = createNexusServiceClient({ endpoint, service: yard });
  const echoed = await client.executeOperation(yard.operations.echo, name);
  const shunted = await client.executeOperation(yard.operations.shunt, name);
  return [echoed, shunted];
}
