// The dashboard's JSON and what Prometheus answered, drawn with Grafana's own panel frame, graphs, values and bars.
import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';
import 'uplot/dist/uPlot.min.css';
import { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import {
  applyFieldOverrides, createTheme, dateTime, FieldType, getDisplayProcessor, ThemeContext, toDataFrame,
} from '@grafana/data';
import {
  BarGauge, BigValue, BigValueColorMode, BigValueGraphMode, BigValueTextMode, GlobalStyles, PanelChrome, TimeSeries,
} from '@grafana/ui';

const { board, events, from, to } = window.seen;
board.panels = withoutEmptyRows(board.panels);
const theme = createTheme({ colors: { mode: window.theme } });
const CELL = 1600 / 24, LINE = 38, GAP = 8, HEAD = 64;
const range = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: 'now-7m', to: 'now' } };
const DRAWN = { drawStyle: 'line', lineWidth: 1, fillOpacity: 0, showPoints: 'never', axisPlacement: 'auto',
  lineInterpolation: 'linear', spanNulls: 6000, pointSize: 4, axisColorMode: 'text', scaleDistribution: { type: 'linear' } };

const named = (format, labels) => format.replace(/\{\{(\w+)\}\}/g, (_, name) => labels[name] ?? '');

// What this application does not use, as sessions, has nothing to show.
function withoutEmptyRows(panels) {
  const rows = [];
  for (const panel of panels) panel.type === 'row' ? rows.push([panel]) : rows.at(-1).push(panel);
  let saved = 0;
  return rows.flatMap((row, index) => {
    const height = (rows[index + 1]?.[0].gridPos.y ?? 0) - row[0].gridPos.y;
    if (!row.some((panel) => panel.targets?.some((target) => target.series.length))) {
      saved += height;
      return [];
    }
    for (const panel of row) panel.gridPos.y -= saved;
    return row;
  });
}

// A step without an answer is a gap: Prometheus leaves it out, and a line would be drawn across.
const step = Math.min(...board.panels.flatMap((panel) => panel.targets ?? []).flatMap((target) => target.series)
  .flatMap(({ values }) => values.slice(1).map(([time], index) => time - values[index][0])));
const whole = (values) => values.flatMap(([time, value], index) => {
  const before = values[index - 1]?.[0] ?? time;
  const missing = Array.from({ length: Math.max(Math.round((time - before) / step) - 1, 0) }, (_, n) => [before + (n + 1) * step, null]);
  return [...missing, [time, value]];
});
const times = (values) => whole(values).map(([time]) => time * 1000);
const figures = (values) => whole(values).map(([, value]) => (value !== null && Number.isFinite(Number(value)) ? Number(value) : null));

function frames(panel) {
  const config = { ...panel.fieldConfig.defaults, custom: panel.type === 'timeseries' ? DRAWN : undefined };
  const made = panel.targets.flatMap((target) => target.series.map(({ labels, values }) => toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'time', type: FieldType.time, values: times(values), config: {} },
      { name: named(target.legendFormat, labels), type: FieldType.number, config,
        values: figures(values) },
    ],
  })));
  for (const frame of made) frame.fields[1].config = { ...config, displayName: frame.fields[1].name };
  return applyFieldOverrides({ data: made, fieldConfig: { defaults: config, overrides: [] }, theme, timeZone: 'browser',
    replaceVariables: (text) => text });
}

const latest = (frame) => frame.fields[1].values.filter((value) => value !== null).at(-1);

function Marks({ config }) {
  config.addHook('draw', (plot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.setLineDash([4, 4]);
    ctx.strokeStyle = theme.colors.warning.text;
    ctx.fillStyle = theme.colors.warning.text;
    ctx.font = '500 11px Inter, sans-serif';
    ctx.textAlign = 'left';
    ctx.textBaseline = 'top';
    events.forEach(([time], index) => {
      const x = Math.round(plot.valToPos(time * 1000, 'x', true));
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.fillText(String(index + 1), x + 3, bbox.top);
    });
    ctx.restore();
  });
  return null;
}

function Arc({ display, value, width, height, config }) {
  const radius = Math.min(width / 2.6, height / 1.5), turn = (share) => Math.PI * (1 + share);
  const point = (share, r) => [width / 2 + r * Math.cos(turn(share)), height * 0.8 + r * Math.sin(turn(share))].join(' ');
  const arc = (a, b, r) => `M ${point(a, r)} A ${r} ${r} 0 0 1 ${point(b, r)}`;
  const steps = config.thresholds.steps, edges = [...steps.map((step) => Math.max(step.value ?? 0, 0)), 1];
  const text = display(value);
  return (
    <svg width={width} height={height}>
      <path d={arc(0, 1, radius - 12)} fill="none" strokeWidth={22} stroke={theme.colors.background.secondary} />
      <path d={arc(0, Math.max(value, 0.001), radius - 12)} fill="none" strokeWidth={22} stroke={text.color} />
      {steps.map((step, index) => (
        <path key={index} d={arc(edges[index], edges[index + 1], radius + 4)} fill="none" strokeWidth={4}
          stroke={theme.visualization.getColorByName(step.color)} />
      ))}
      <text x={width / 2} y={height * 0.78} textAnchor="middle" fontSize={34} fontWeight={500} fill={text.color}
        fontFamily={theme.typography.fontFamily}>{text.text}{text.suffix}</text>
    </svg>
  );
}

function Body({ panel, width, height }) {
  const data = frames(panel);
  if (!data.length) return <div style={{ padding: 20 }}>{panel.fieldConfig.defaults.noValue}</div>;
  const display = (frame) => getDisplayProcessor({ field: frame.fields[1], theme });
  if (panel.type === 'timeseries') {
    return (
      <TimeSeries frames={data} timeRange={range} timeZone="browser" width={width} height={height}
        legend={{ ...panel.options.legend, showLegend: true, calcs: [] }} options={{}}>
        {(config) => <Marks config={config} />}
      </TimeSeries>
    );
  }
  if (panel.type === 'gauge') {
    return <Arc display={display(data[0])} value={latest(data[0])} width={width} height={height}
      config={panel.fieldConfig.defaults} />;
  }
  if (panel.type === 'stat') {
    return <BigValue value={display(data[0])(latest(data[0]))} width={width} height={height} theme={theme}
      colorMode={BigValueColorMode.Value} graphMode={BigValueGraphMode.None} textMode={BigValueTextMode.Value} />;
  }
  const bars = data.map((frame) => [latest(frame), frame]).sort(([a], [b]) => b - a);
  const most = bars[0][0];
  const longest = data.map((frame) => frame.fields[1].name).reduce((a, b) => (b.length > a.length ? b : a));
  return bars.map(([value, frame]) => (
    <BarGauge key={frame.fields[1].name} value={{ ...display(frame)(value), title: frame.fields[1].name }} width={width}
      height={Math.floor(height / bars.length) - 4} orientation="horizontal" theme={theme} displayMode="gradient"
      field={{ ...panel.fieldConfig.defaults, min: 0, max: most }} display={display(frame)} itemSpacing={4}
      valueDisplayMode="color" alignmentFactors={{ title: longest, text: "8888 K" }} text={{ titleSize: 12, valueSize: 12 }} />
  ));
}

function Place({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const style = { position: 'absolute', left: x * CELL + GAP / 2, top: HEAD + y * LINE, width: w * CELL - GAP };
  if (panel.type === 'row') {
    return <div style={{ ...style, paddingTop: 8, fontSize: 16, fontWeight: 500 }}>⌄ {panel.title}</div>;
  }
  const height = h * LINE - GAP;
  return (
    <div style={{ ...style, height }}>
      <PanelChrome title={panel.title} description={panel.description} width={w * CELL - GAP} height={height}>
        {(width, inner) => <Body panel={panel} width={width} height={inner} />}
      </PanelChrome>
    </div>
  );
}

function Page() {
  const [done, end] = useState(false);
  useEffect(() => { setTimeout(() => end(true), 500); }, []);
  const bottom = Math.max(...board.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  const style = { position: 'relative', width: 1600, height: HEAD + bottom * LINE + GAP, fontSize: 14,
    fontFamily: 'Inter, DejaVu Sans, sans-serif', background: theme.colors.background.canvas, color: theme.colors.text.primary };
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div style={style}>
        <div style={{ padding: '10px 12px', fontSize: 20, fontWeight: 500 }}>{board.title}</div>
        <div style={{ padding: '0 12px', fontSize: 13, color: theme.colors.text.secondary }}>
          {events.map(([, text], index) => <span key={text} style={{ marginRight: 18 }}>
            <b style={{ color: theme.colors.warning.text }}>{index + 1}</b> {text}</span>)}
        </div>
        {board.panels.map((panel) => <Place key={panel.id} panel={panel} />)}
      </div>
      {done && <div id="done" />}
    </ThemeContext.Provider>
  );
}

// Widths are measured as soon as something is drawn.
Promise.all(['400', '500'].map((weight) => document.fonts.load(`${weight} 14px Inter`)))
  .then(() => createRoot(document.getElementById('root')).render(<Page />));
