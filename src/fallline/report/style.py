"""The page's style sheet: light and dark, narrow and wide, screen and paper. No font or file is fetched."""

STYLE = """
:root{color-scheme:light dark;--paper:#fbfbfa;--card:#fff;--ink:#1b2028;--soft:#5b6470;--line:#e3e5e8;--accent:#2563b8;
--good:#1d7a4c;--bad:#b3322d;--warn-bg:#fdf1ef;--code:#f3f4f6}
@media (prefers-color-scheme:dark){:root:not([data-theme=light]){--paper:#111418;--card:#181c22;--ink:#e7eaee;--soft:#9aa4b1;
--line:#2b313a;--accent:#7fb0f5;--good:#5cc993;--bad:#f08a84;--warn-bg:#2c1c1c;--code:#20252d}}
:root[data-theme=dark]{color-scheme:dark;--paper:#111418;--card:#181c22;--ink:#e7eaee;--soft:#9aa4b1;
--line:#2b313a;--accent:#7fb0f5;--good:#5cc993;--bad:#f08a84;--warn-bg:#2c1c1c;--code:#20252d}
:root[data-theme=light]{color-scheme:light}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;
overflow-wrap:anywhere}
main{max-width:1120px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:1.15rem;font-weight:600;margin:0;line-height:1.3}
h2{font-size:1.2rem;margin:44px 0 4px;line-height:1.3}
h3{font-size:1rem;margin:20px 0 6px}
.soft,.lead{color:var(--soft)}
.lead{margin:0 0 14px;max-width:75ch}
.small{font-size:.86rem}
.top{display:flex;flex-wrap:wrap;gap:4px 18px;justify-content:space-between;align-items:baseline}
.hero{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:22px 24px 18px;margin:14px 0 0;
display:grid;grid-template-columns:minmax(250px,5fr) minmax(280px,6fr);gap:14px 36px;align-items:center}
.hero .what{color:var(--soft);font-size:1rem;margin:0}
.hero .value{font-size:3.3rem;font-weight:650;line-height:1.05;letter-spacing:-.02em;margin:2px 0 4px;font-variant-numeric:tabular-nums}
.hero .beside{margin:0}
.scale{width:100%;height:auto;display:block;overflow:visible}
.alert{border-left:4px solid var(--bad);background:var(--warn-bg);padding:10px 16px;border-radius:0 8px 8px 0;margin:14px 0 0}
.outcome{margin:12px 0 0}
.charts{columns:2 420px;column-gap:16px;margin-top:14px}
.charts>*{break-inside:avoid;margin-bottom:16px!important}
figure,.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px 12px;margin:0;min-width:0}
figure{max-width:none!important}
figcaption{font-size:.98rem;line-height:1.35}
figure svg{width:100%;max-width:640px!important;display:block;margin:0 auto}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.94rem;font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--soft);font-size:.82rem}
th,td{overflow-wrap:break-word;text-align:left;padding:7px 14px 7px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
td.n,th.n{text-align:right;white-space:nowrap;overflow-wrap:normal}
.decisions td,.stack td{overflow-wrap:anywhere}
.decisions td:nth-child(1){font-weight:600;width:30%}
.card>h3:first-child{margin-top:4px}.below{margin-top:0}
.stack td:first-child{font-weight:600}
.good{color:var(--good)}.bad{color:var(--bad)}
pre{background:var(--code);border-radius:8px;padding:12px 14px;margin:8px 0;overflow-x:auto;white-space:pre-wrap;
font:.86rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
ul{padding-left:20px;margin:8px 0}
details{margin:10px 0}summary{cursor:pointer;color:var(--accent)}
.missing{color:var(--soft);border:1px dashed var(--line);border-radius:8px;padding:10px 14px;margin:10px 0;max-width:80ch}
nav{margin-top:12px;display:flex;flex-wrap:wrap;gap:2px 16px}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
footer{margin-top:48px;color:var(--soft);font-size:.84rem}
@media (max-width:720px){main{padding:18px 14px 40px}.hero{grid-template-columns:1fr;padding:16px}.hero .value{font-size:2.7rem}
.stack thead{display:none}.stack tr{display:block;padding:9px 0;border-bottom:1px solid var(--line)}.stack tr:last-child{border-bottom:0}
.stack td{display:block;width:auto!important;border:0;padding:1px 0;text-align:left;white-space:normal}
.stack td:empty{display:none}
figure,.card{padding:12px 10px 10px}h2{margin-top:34px}}
@media print{body{background:#fff}figure,.card,.hero{break-inside:avoid}nav{display:none}}
"""
