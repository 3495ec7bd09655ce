// Validates resources with @medplum/core. Reads {"definitions": path of R4's structure definitions,
// "resources": {name: resource}} and writes {name: message} of those that it refuses.
import { indexStructureDefinitionBundle, validateResource } from '@medplum/core';
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';

const { definitions, resources } = JSON.parse(readFileSync(0, 'utf8'));
const lines = gunzipSync(readFileSync(definitions)).toString('utf8').trim().split('\n');
indexStructureDefinitionBundle(
  lines.map((line) => JSON.parse(line)).filter((one) => one.derivation !== 'constraint'),
);
const refused = {};
for (const [name, resource] of Object.entries(resources)) {
  try {
    validateResource(resource);
  } catch (error) {
    refused[name] = error.message;
  }
}
process.stdout.write(JSON.stringify(refused));
