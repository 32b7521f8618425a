"use strict";

const $ = (id) => document.getElementById(id);

// The ledger. Each click that was acknowledged came with the counter's value
// after it; the highest of them can be no lower than where the counter began
// and what was acknowledged since.
let began = null, acknowledged = 0, unanswered = 0, highest = 0, pending = 0;

async function click() {
	pending++;
	try {
		const res = await fetch("/count", {method: "POST"});
		if (!res.ok) throw new Error(`${res.status}`);
		const {node, clicks} = await res.json();
		if (began === null) began = clicks - 1;
		acknowledged++;
		highest = Math.max(highest, clicks);
		$("answered").textContent = `node ${node}`;
		note(`node ${node}: ${clicks}`);
	} catch (err) {
		unanswered++;
		note(`no answer (${err.message})`);
	}
	pending--;
	$("acknowledged").textContent = acknowledged;
	$("unanswered").textContent = unanswered;
	$("counter").textContent = highest;
	$("lost").textContent = Math.max(0, (began ?? 0) + acknowledged - highest);
	document.querySelector(".lost").classList.toggle("bad", $("lost").textContent !== "0");
}

function note(text) {
	const li = document.createElement("li");
	li.textContent = text;
	$("log").prepend(li);
	while ($("log").children.length > 6) $("log").lastChild.remove();
}

$("click").addEventListener("click", click);
setInterval(() => { if ($("auto").checked && pending < 10) click(); }, 100);

const actions = {
	running: ["stop", "kill", "pause"],
	paused: ["resume", "kill"],
	stopping: ["kill"],
	stopped: ["start", "start-empty"],
	killed: ["start", "start-empty"],
	failed: ["start", "start-empty"],
};

const labels = {"start-empty": "start with an empty disk"};

async function act(name, action) {
	const res = await fetch(`/cluster/nodes/${name}/${action}`, {method: "POST"});
	$("problem").textContent = res.ok ? "" : await res.text();
	await show();
}

function row(n) {
	let tr = document.querySelector(`tr[data-node="${n.name}"]`);
	if (!tr) {
		tr = $("row").content.firstElementChild.cloneNode(true);
		tr.dataset.node = n.name;
		tr.querySelector("th").textContent = n.name;
		$("rows").append(tr);
	}
	const set = (c, text) => { tr.querySelector(`.${c}`).textContent = text; };
	const r = n.report;
	tr.dataset.state = n.state;
	set("state", n.pid ? `${n.state}, pid ${n.pid}` : n.state);
	set("balance", n.state !== "running" && n.balance === "up" ? "…" : n.balance);
	tr.dataset.ready = r && r.ready === "" ? "yes" : "no";
	set("role", !r ? "" : r.leader === n.name ? "leader" : r.leader ? "follower" : "no leader known");
	set("copy", !r ? "" : r.ready ? r.ready : r.stale < 0 ? "not used" : `${r.stale} ms old`);
	set("sessions", r && r.sessions >= 0 ? r.sessions : "");
	set("held", !r ? "" : r.held ? r.clicks : "–");
	const wanted = actions[n.state] || [];
	const cell = tr.querySelector(".do");
	if (cell.dataset.for !== n.state) { // a button keeps its focus while nothing changes
		cell.dataset.for = n.state;
		cell.replaceChildren(...wanted.map((a) => {
			const b = document.createElement("button");
			b.textContent = labels[a] || a;
			b.dataset.action = a;
			b.setAttribute("aria-label", `${labels[a] || a}: node ${n.name}`);
			b.addEventListener("click", () => act(n.name, a));
			return b;
		}));
	}
}

async function show() {
	try {
		const res = await fetch("/cluster/status");
		(await res.json()).forEach(row);
	} catch (err) {
		$("problem").textContent = "The program behind this page has ended.";
	}
}

async function follow() {
	for (;;) {
		await show();
		await new Promise((done) => setTimeout(done, 500));
	}
}
follow();
