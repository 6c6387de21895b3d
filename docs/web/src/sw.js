// Keeps the page for when there is no network, and gives its files the headers that isolate it.
const CACHE = "apollo-{{version}}";
const FILES = {{files}};
const HEADERS = {{headers}};

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)).then(() => self.skipWaiting()));
});
self.addEventListener("activate", (event) => {
  const old = caches.keys().then((names) => Promise.all(
    names.filter((name) => name.startsWith("apollo-") && name !== CACHE).map((name) => caches.delete(name)),
  ));
  event.waitUntil(old.then(() => self.clients.claim()));
});
async function answer(request) {
  const kept = await (await caches.open(CACHE)).match(request, { ignoreSearch: true });
  const found = kept || await fetch(request);
  const headers = new Headers(found.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(found.body, { status: found.status, statusText: found.statusText, headers });
}
self.addEventListener("fetch", (event) => {
  const same = new URL(event.request.url).origin === self.location.origin;
  event.respondWith(same ? answer(event.request) : Response.error());
});
