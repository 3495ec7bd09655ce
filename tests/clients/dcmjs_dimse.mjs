// dcmjs-dimse against a listener: echo, store, find and get. Reads {port, calling, called, file,
// study} as JSON from standard input and writes what came back as JSON.
import dcmjsDimse from "dcmjs-dimse";
import { readFileSync } from "node:fs";

const { Client, log } = dcmjsDimse;
const { CEchoRequest, CFindRequest, CGetRequest, CStoreRequest } = dcmjsDimse.requests;
const { CStoreResponse } = dcmjsDimse.responses;
const { Status } = dcmjsDimse.constants;
log.silent = true;
for (const transport of log.transports ?? []) transport.silent = true;

const given = JSON.parse(readFileSync(0, "utf8"));

function ask(request, onStore) {
  return new Promise((resolve, reject) => {
    const client = new Client();
    const statuses = [];
    const datasets = [];
    request.on("response", (response) => {
      statuses.push(response.getStatus());
      if (response.getStatus() === Status.Pending && response.hasDataset()) {
        datasets.push(response.getDataset().getElements());
      }
    });
    if (onStore) client.on("cStoreRequest", onStore);
    client.on("networkError", reject);
    client.on("associationRejected", () => reject(new Error("rejected")));
    client.on("closed", () => resolve({ statuses, datasets }));
    client.addRequest(request);
    client.send("127.0.0.1", given.port, given.calling, given.called);
  });
}

const received = [];
const echo = await ask(new CEchoRequest());
const store = await ask(new CStoreRequest(given.file));
const query = { StudyInstanceUID: given.study, PatientName: "", PatientID: "" };
const find = await ask(CFindRequest.createStudyFindRequest(query));
const get = await ask(CGetRequest.createStudyGetRequest(given.study), (request, callback) => {
  received.push(request.getAffectedSopInstanceUid());
  const response = CStoreResponse.fromRequest(request);
  response.setStatus(Status.Success);
  callback(response);
});
process.stdout.write(JSON.stringify({ echo, store, find, get, received }));
