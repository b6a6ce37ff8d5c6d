// Keeps what the book has fetched: the machine's parts for as long as they are of this version, pages for a visit without a network.
"use strict";

const KEPT = "minidocker VERSION";

addEventListener("install", () => skipWaiting());
addEventListener("activate", event => event.waitUntil((async () => {
  for (const name of await caches.keys()) if (name.startsWith("minidocker ") && name !== KEPT) await caches.delete(name);
  await clients.claim();
})()));

async function fetched(request, kept) {
  const answer = await fetch(request);
  if (answer.status === 200) kept.put(request, answer.clone()).catch(() => { /* no room: the network stays needed */ });
  return answer;
}

async function answer(request) {
  const kept = await caches.open(KEPT), found = await kept.match(request, { ignoreSearch: true });
  const part = new URL(request.url).pathname.startsWith(new URL("tab/", registration.scope).pathname);
  if (found && part && request.cache !== "reload") return found;
  try { return await fetched(request, kept); } catch (error) {
    if (found) return found;
    throw error;
  }
}

addEventListener("fetch", event => {
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith(registration.scope)) event.respondWith(answer(event.request));
});

addEventListener("message", event => event.waitUntil((async () => {
  const kept = await caches.open(KEPT);
  for (const url of event.data.keep ?? [])
    if (!await kept.match(url, { ignoreSearch: true })) await kept.add(url).catch(() => { /* the next visit tries again */ });
})()));
