// One day of an application with fhir-kit-client. Reads {"baseUrl", "token"} and writes what it saw.
import { readFileSync } from 'node:fs';
import { Client } from 'fhir-kit-client';

const { baseUrl, token } = JSON.parse(readFileSync(0, 'utf8'));
const client = new Client({ baseUrl, bearerToken: token });
const seen = {};

const capabilities = await client.capabilityStatement();
seen.fhirVersion = capabilities.fhirVersion;
const patient = await client.create({
  resourceType: 'Patient',
  body: { resourceType: 'Patient', name: [{ family: 'Kit', given: ['Ada'] }], gender: 'female' },
});
const id = patient.id;
const about = { resourceType: 'Patient', id };
seen.updated = (await client.update({ ...about, body: { ...patient, active: true } })).active;
seen.patched = (
  await client.patch({
    ...about,
    jsonPatch: [
      { op: 'test', path: '/active', value: true },
      { op: 'replace', path: '/gender', value: 'other' },
    ],
  })
).gender;
seen.first = (await client.vread({ ...about, version: '1' })).gender;
const count = (bundle) => bundle.entry?.length ?? 0;
seen.history = count(await client.history(about));
seen.typeHistory = count(await client.history({ resourceType: 'Patient' })) >= 3;
seen.systemHistory = count(await client.history()) >= 3;
seen.found = count(await client.search({ resourceType: 'Patient', searchParams: { family: 'kit' } }));
seen.summary = (
  await client.search({ resourceType: 'Patient', searchParams: { _id: id, _elements: 'gender' } })
).entry[0].resource.name;
const observation = (code) => ({
  resource: {
    resourceType: 'Observation', status: 'final', code: { text: code },
    subject: { reference: `Patient/${id}` },
  },
  request: { method: 'POST', url: 'Observation' },
});
const transaction = await client.transaction({
  body: {
    resourceType: 'Bundle', type: 'transaction', entry: [observation('one'), observation('two')],
  },
});
seen.transaction = transaction.entry.map((entry) => entry.response.status.slice(0, 3));
const batch = await client.batch({
  body: {
    resourceType: 'Bundle', type: 'batch',
    entry: [{ request: { method: 'GET', url: `Patient/${id}` } }],
  },
});
seen.batch = batch.entry[0].resource.id === id;
const everything = await client.operation({ name: 'everything', ...about, method: 'GET' });
seen.everything = everything.entry.map((entry) => entry.resource.resourceType).sort();
const first = await client.search({
  resourceType: 'Observation', searchParams: { patient: id, _count: 1 },
});
seen.next = count(await client.nextPage({ bundle: first }));
for (const entry of transaction.entry) {
  const [, type, one] = entry.response.location.match(/(Observation)\/([^/]+)\/_history/);
  await client.delete({ resourceType: type, id: one });
}
await client.delete(about);
seen.gone = await client.read(about).then(() => 200, (error) => error.response?.status);
process.stdout.write(JSON.stringify(seen));
